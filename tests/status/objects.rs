//! Lists of live objects and what is in one: of a fake source, and of a real instance with a million of them.

use super::*;
use lunasa::status::{HookPage, HookReply};
use lunasa::{Config, Lunasa, TypeId};
use std::time::Instant;

fn has(body: &str, wanted: &[&str]) {
    for text in wanted {
        assert!(body.contains(text), "no {text:?} in {body}");
    }
}

#[test]
fn live_objects_are_listed_with_their_type_names_escaped() {
    let endpoint = endpoint(&Hooks::new());
    let body = get(&endpoint, "/lunasa/eager").body;
    has(&body, &["10 live objects. ", "particles &lt;b&gt;&amp;", "512.0 KiB", "0x7f1234009000", "10 of 10 shown"]);
    has(&get(&endpoint, "/lunasa/lazy").body, &["3 live objects. ", "Lazy objects"]);
    let nobodys = get(&endpoint, "/lunasa/eagle");
    assert_eq!((nobodys.status, nobodys.body.contains("There is no /lunasa/eagle here")), (404, true));
    let json = get(&endpoint, "/lunasa/lazy?format=json").json();
    let objects: Vec<ObjectInfo> = serde_json::from_value(json["objects"].clone()).unwrap();
    assert_eq!(objects, Fake::with_objects(10).listed("lazy", 1000));
    assert_eq!((&json["pool"], &json["cut"], &json["schema"]), (&"lazy".into(), &false.into(), &SCHEMA.into()));
}

#[test]
fn order_filters_and_pages_reach_the_source_and_stay_in_the_links() {
    let endpoint = endpoint(&Hooks::new());
    let source = Fake::with_objects(25_000);
    endpoint.set_source(source.clone());
    let target = "/lunasa/eager?sort=meta&order=asc&type=a%26b&min=64&max=4096&after=7-4096";
    let body = get(&endpoint, target).body;
    let asked = source.asked.lock().unwrap().clone().unwrap();
    let expected = ObjectQuery {
        pool: "eager".into(),
        sort: ObjectKey::Meta,
        descending: false,
        of_type: "a&b".into(),
        min_bytes: 64,
        max_bytes: Some(4096),
        after: Some((7, 4096)),
        limit: 100,
    };
    assert_eq!(asked, expected);
    has(
        &body,
        &["aria-sort=\"ascending\"><a href=\"?type=a%26b&amp;min=64&amp;max=4096&amp;sort=meta&amp;order=desc\">"],
    );
    has(&body, &["100 of 25,000 shown", "value=\"a&amp;b\"", "rel=\"next\"", "To the first", "after="]);
    assert_eq!(body.matches("<tr>").count(), 2 + 1 + 100);
    let json = get(&endpoint, "/lunasa/eager?format=json").json();
    assert_eq!((&json["cut"], &json["live_objects"]), (&true.into(), &25_000.into()));
    assert_eq!(json["objects"].as_array().unwrap().len(), 1000);
    assert!(json["next"].is_string());
    // What a stranger may write into the form is not markup.
    let body = get(&endpoint, "/lunasa/eager?type=%22%3E%3Cscript%3E").body;
    assert!(!body.contains("<script>") && body.contains("&quot;&gt;&lt;script&gt;"), "{body}");
}

#[test]
fn an_object_is_shown_as_bytes_or_in_the_programs_words() {
    let hooks = Hooks::new();
    hooks.register_dump(8, |object| HookPage::new().facts([("length <i>", object.data.len().to_string())]).reply());
    hooks.register_dump(9, |_| -> HookReply { panic!("on purpose") });
    let endpoint = endpoint(&hooks);
    let body = get(&endpoint, "/lunasa/eager/0x7f1234000000").body;
    has(
        &body,
        &[
            "00000000  00 01 02 03",
            "!&quot;#$%&amp;&apos;()*",
            "6d 65 74 61",
            "Bytes 0 to 1024 of 4096",
            "?as=hex&amp;offset=1024",
        ]
        .map(|text| if text.contains("apos") { "!&quot;#$%&amp;'()*" } else { text }),
    );
    has(
        &get(&endpoint, "/lunasa/eager/0x7f1234000000?offset=1024").body,
        &["00000400  00 01", "Bytes 1024 to 2048 of 4096"],
    );
    let body = get(&endpoint, "/lunasa/eager/0x7f1234001000").body;
    has(&body, &["length &lt;i&gt;", "8192", "?as=hex"]);
    assert!(!body.contains("00000000  00"), "{body}");
    has(&get(&endpoint, "/lunasa/eager/0x7f1234001000?as=hex").body, &["00000000  00 01"]);
    assert_eq!(get(&endpoint, "/lunasa/eager/0x7f1234002000").status, 500);
    let json = get(&endpoint, "/lunasa/eager/0x7f1234000000?format=json&offset=4094").json();
    assert_eq!((&json["data_hex"], &json["object"]["type_id"]), (&"feff".into(), &7.into()));
    for nothing in ["0x1", "7f1234000000", "0x", "0xg", "-1", "0x7f1234000001", "%00", "..%2f"] {
        assert_eq!(get(&endpoint, &format!("/lunasa/eager/{nothing}")).status, 404, "{nothing}");
    }
}

#[test]
fn a_million_objects_do_not_hurt() {
    let _alone = alone_with_memory();
    const COUNT: usize = 1_000_000;
    let config = Config::new().ignore_environment().set("lunasa.status.port", 0).unwrap();
    let lunasa = Lunasa::local(config).unwrap();
    let odd = lunasa.object().type_id("odd").data(5000).unwrap();
    let all: Vec<_> = (0..COUNT).map(|i| lunasa.object().type_id("even").data(16 + i % 100).unwrap()).collect();
    let url = lunasa.url();
    let (address, token) = url.strip_prefix("http://").unwrap().split_once("/?token=").unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let get = |target: &str| {
        let headers = [("Host", address.to_string()), ("Authorization", format!("Bearer {token}"))];
        ask(address, "GET", target, &headers.each_ref().map(|(name, value)| (*name, value.as_str())))
    };
    get("/lunasa/eager");
    let (before, began) = (resident(), Instant::now());
    for target in ["/lunasa/eager", "/lunasa/eager?sort=address&order=desc", "/lunasa/eager?type=odd", "/lunasa/blocks"]
    {
        for _ in 0..3 {
            let reply = get(target);
            assert_eq!(reply.status, 200, "{target}");
            assert!(reply.body.len() < 200_000, "{target}: {} bytes", reply.body.len());
        }
    }
    let (taken, more) = (began.elapsed() / 12, resident().saturating_sub(before));
    println!("a page of a million objects: {taken:?}, {more} bytes more");
    assert!(taken < Duration::from_secs(4), "{taken:?}");
    assert!(more < 32 << 20, "{more} bytes more");

    let json = |target: &str| get(target).json();
    let first = json("/lunasa/eager?format=json&limit=3");
    assert_eq!((&first["matched"], &first["complete"], &first["cut"]), (&1_000_001.into(), &true.into(), &true.into()));
    assert_eq!((&first["objects"][0]["data_bytes"], &first["objects"][1]["data_bytes"]), (&5000.into(), &115.into()));
    let next = json(&format!("/lunasa/eager?format=json&limit=3&after={}", first["next"].as_str().unwrap()));
    assert!(next["objects"][0]["address"].as_u64() > first["objects"][2]["address"].as_u64());
    let types = first["types"].as_array().unwrap();
    assert!(
        types.iter().any(|total| total["type_id"] == TypeId::named("even").0 && total["objects"] == COUNT),
        "{types:?}"
    );
    let only = json("/lunasa/eager?format=json&type=odd");
    assert_eq!((&only["matched"], &only["matched_bytes"], &only["cut"]), (&1.into(), &5000.into(), &false.into()));
    let some = json("/lunasa/eager?format=json&min=100&max=100");
    assert_eq!((&some["matched"], &some["cut"]), (&(COUNT / 100).into(), &true.into()));
    drop((odd, all));
}

#[test]
fn every_page_of_a_list_together_is_the_whole_list_once() {
    let config = Config::new().ignore_environment().set("lunasa.status.port", 0).unwrap();
    let lunasa = Lunasa::local(config).unwrap();
    let all: Vec<_> = (0..257).map(|i| lunasa.object().data(i % 7).unwrap()).collect();
    let url = lunasa.url();
    let (address, token) = url.strip_prefix("http://").unwrap().split_once("/?token=").unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let get = |target: &str| {
        let headers = [("Host", address.to_string()), ("Authorization", format!("Bearer {token}"))];
        ask(address, "GET", target, &headers.each_ref().map(|(name, value)| (*name, value.as_str()))).json()
    };
    for order in [
        "sort=data&order=desc",
        "sort=data&order=asc",
        "sort=address&order=asc",
        "sort=address&order=desc",
        "sort=type",
    ] {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = get(&format!("/lunasa/eager?format=json&limit=50&{order}&after={after}"));
            let objects = page["objects"].as_array().unwrap();
            seen.extend(
                objects
                    .iter()
                    .map(|object| (object["data_bytes"].as_u64().unwrap(), object["address"].as_u64().unwrap())),
            );
            match page["next"].as_str() {
                Some(next) => after = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(seen.len(), all.len(), "{order}");
        let sizes: Vec<u64> = seen.iter().map(|(bytes, _)| *bytes).collect();
        match order {
            "sort=data&order=desc" => assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}"),
            "sort=data&order=asc" => assert!(sizes.is_sorted(), "{sizes:?}"),
            _ => {}
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all.len(), "{order}: one was listed twice");
    }
}

#[test]
fn what_an_object_holds_can_be_read_while_it_lives_and_not_afterwards() {
    let config = Config::new().ignore_environment().set("lunasa.status.port", 0).unwrap();
    let lunasa = Lunasa::local(config).unwrap();
    let mut ours = lunasa.object().meta(4).zeroed().data(100).unwrap();
    ours.data_mut::<u8>().unwrap().copy_from_slice(&[0xab; 100]);
    let shared = lunasa.object().zeroed().data(10).unwrap();
    let handle = shared.handle().unwrap();
    let brought = lunasa.object().user(vec![0x5au8; 64]).unwrap();
    let url = lunasa.url();
    let (address, token) = url.strip_prefix("http://").unwrap().split_once("/?token=").unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let get = |target: &str| {
        let headers = [("Host", address.to_string()), ("Authorization", format!("Bearer {token}"))];
        ask(address, "GET", target, &headers.each_ref().map(|(name, value)| (*name, value.as_str())))
    };
    let at =
        |object: &lunasa::Ldo| format!("/lunasa/eager/{:#x}?format=json", object.data::<u8>().unwrap().as_ptr().addr());
    assert_eq!(get(&at(&ours)).json()["data_hex"].as_str(), Some("ab".repeat(100).as_str()));
    assert_eq!(get(&at(&shared)).json()["data_hex"].as_str(), Some("00".repeat(10).as_str()));
    let listed = get("/lunasa/eager?format=json").json();
    let listed = listed["objects"].as_array().unwrap().iter().find(|object| object["kind"] == "user").cloned().unwrap();
    let user = format!("/lunasa/eager/{:#x}?format=json", listed["address"].as_u64().unwrap());
    assert_eq!(get(&user).json()["data_hex"].as_str(), Some("5a".repeat(64).as_str()));
    // Neither look has changed who holds what, and nothing is kept alive by it.
    assert!(ours.data_mut::<u8>().is_ok());
    let gone = [at(&ours), at(&shared), user];
    drop((ours, shared, handle, brought));
    for target in gone {
        assert_eq!(get(&target).status, 404, "{target}");
    }
    assert_eq!(lunasa.snapshot().pools[0].live_objects, 0);
}
