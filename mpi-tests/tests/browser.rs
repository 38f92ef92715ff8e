//! The pages of a running job in a real browser: Debian's Chromium, without a window.
//!
//! Pictures of every page, wide and narrow, light and dark, are put into `target/test/pages`. With `LUNASA_TEST_WRITE=1` those
//! that the README shows are put into `docs/images` as well.

use lunasa_mpi_tests::browser::{Browser, obstacle};
use lunasa_mpi_tests::launch::{Bed, Job, Outcome, can_run, root, skip};
use serde_json::json;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const RANKS: usize = 4;

/// The pages, and what moves on each while it is looked at; on some nothing does.
const PAGES: [(&str, &str, &str); 9] = [
    ("rank", "/", "document.getElementById('identity').textContent"),
    ("memory", "/lunasa", "document.getElementById('pools').textContent"),
    ("blocks", "/lunasa/blocks", "document.getElementById('map').innerHTML"),
    ("eager", "/lunasa/eager", ""),
    ("lazy", "/lunasa/lazy", ""),
    ("peers", "/peers", "document.getElementById('peers').textContent"),
    ("job", "/job", "document.getElementById('ranks').textContent"),
    ("hooks", "/hooks", ""),
    ("step", "/hooks/step", ""),
];

/// The README's pictures: page, width, dark, height at most.
const SHOWN: [(&str, u32, bool, u32); 4] =
    [("rank", 1200, false, 1000), ("job", 1200, true, 900), ("blocks", 1200, false, 700), ("rank", 360, true, 900)];

fn can() -> bool {
    if let Some(reason) = obstacle() {
        skip("browser", &reason);
        return false;
    }
    can_run(Bed::OpenMpi)
}

/// A job whose pages are open: the address of those of rank 0, with and without the token.
struct Pages {
    job: Option<JoinHandle<Outcome>>,
    /// The job ends when it is gone.
    file: PathBuf,
    entry: String,
    base: String,
}

impl Drop for Pages {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
        let _ = self.job.take().map(JoinHandle::join);
    }
}

impl Pages {
    fn start(name: &str, objects: usize) -> Self {
        let file = std::env::temp_dir().join(format!("lunasa-pages-{}-{name}", std::process::id()));
        let (said, arguments) =
            (file.clone(), ["pages".to_owned(), "120".to_owned(), objects.to_string(), file.display().to_string()]);
        let job = Job::open_mpi(RANKS).args(arguments).timeout(Duration::from_secs(180));
        let job = std::thread::spawn(move || job.run());
        let began = Instant::now();
        let entry = loop {
            match std::fs::read_to_string(&said) {
                Ok(url) if url.ends_with('\n') => break url.trim().to_owned(),
                _ if job.is_finished() => panic!("{}", job.join().expect("a job is run").report()),
                _ => assert!(began.elapsed() < Duration::from_secs(60), "the job does not say where its pages are"),
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let base = entry.split("/?").next().expect("an address").to_owned();
        Self { job: Some(job), file, entry, base }
    }

    /// Ends it by its own form.
    fn end(mut self, browser: &mut Browser) {
        browser.open(&format!("{}/hooks/end", self.base));
        browser.value("document.querySelector('main form button').click()");
        let job = self.job.take().expect("it has not ended");
        let outcome = job.join().expect("a job is run").expect_ok();
        assert!(outcome.stdout.contains("ok pages ranks=4"), "{}", outcome.report());
        assert!(outcome.elapsed < Duration::from_secs(110), "the form did not end the job: {:?}", outcome.elapsed);
    }
}

fn keep(name: &str, picture: &[u8]) {
    let at = root().join("target/test/pages");
    std::fs::create_dir_all(&at).expect("target can be written to");
    std::fs::write(at.join(name), picture).expect("target can be written to");
}

#[test]
fn every_page_opens_moves_and_asks_nobody_else() {
    if !can() {
        return;
    }
    let (pages, mut browser) = (Pages::start("live", 0), Browser::start());
    browser.set_look(1200, 900, false);
    browser.open(&pages.entry);
    assert_eq!(browser.value("location.search"), "", "the token leaves the address");
    for (name, path, moving) in PAGES {
        browser.trace();
        browser.open(&format!("{}{path}", pages.base));
        if !moving.is_empty() {
            browser.until("document.querySelector('.live')?.dataset.state === 'on'");
            browser.value(&format!("window.seen = {moving}; window.here = true"));
            browser.until(&format!("{moving} !== window.seen"));
            assert_eq!(browser.value("window.here"), true, "{name} was loaded anew");
        }
        assert_eq!(
            browser.value("[...document.querySelectorAll('main, header, nav, h1')].length >= 4"),
            true,
            "{name}"
        );
        assert_eq!(browser.value("[...document.querySelectorAll('th')].every((th) => th.scope)"), true, "{name}");
        assert_eq!(browser.value("[...document.querySelectorAll('svg:not([aria-hidden])')].every((svg) => svg.getAttribute('aria-label'))"), true, "{name}");
        let trace = browser.trace();
        assert!(trace.errors.is_empty(), "{name}: {:?}", trace.errors);
        let own = |url: &&String| !url.starts_with(&pages.base);
        assert_eq!(trace.requests.iter().filter(own).count(), 0, "{name}: {:?}", trace.requests);
        assert!(trace.requests.iter().any(|url| url.ends_with("/style.css")), "{name}: {:?}", trace.requests);
        for (width, dark) in [(1200, false), (1200, true), (360, false), (360, true)] {
            browser.set_look(width, 800, dark);
            let overflow = browser.value("document.documentElement.scrollWidth - document.documentElement.clientWidth");
            assert_eq!(overflow, 0, "{name} is wider than a window of {width}");
            let look = if dark { "dark" } else { "light" };
            keep(&format!("{name}-{width}-{look}.png"), &browser.picture(4000));
        }
        browser.set_look(1200, 900, false);
    }
    // Plots have content once there are samples.
    browser.open(&pages.entry);
    browser.until("document.querySelectorAll('polyline').length >= 5");
    let points =
        "[...document.querySelectorAll('polyline')].every((line) => line.getAttribute('points').split(' ').length > 2)";
    browser.until(points);
    let drawn =
        browser.value("[...document.querySelectorAll('.plot svg polyline')].some((line) => line.getBBox().height > 1)");
    assert_eq!(drawn, true, "the lines are flat");
    browser.value("document.querySelector('.live button').click()");
    browser.until("document.querySelector('.live').dataset.state === 'off'");
    if std::env::var_os("LUNASA_TEST_WRITE").is_some() {
        std::thread::sleep(Duration::from_secs(45));
        readme_pictures(&mut browser, &pages.base);
    }
    pages.end(&mut browser);
}

fn readme_pictures(browser: &mut Browser, base: &str) {
    for (name, width, dark, height) in SHOWN {
        let path = PAGES.iter().find(|(own, ..)| *own == name).expect("a page of this name").1;
        browser.set_look(width, 900, dark);
        browser.open(&format!("{base}{path}"));
        let look = if dark { "dark" } else { "light" };
        let at: PathBuf = root().join(format!("docs/images/{name}-{width}-{look}.png"));
        std::fs::create_dir_all(root().join("docs/images")).expect("docs can be written to");
        std::fs::write(at, browser.picture(height)).expect("docs can be written to");
    }
}

#[test]
fn without_script_every_page_is_readable_tables_sort_and_links_lead_from_rank_to_rank() {
    if !can() {
        return;
    }
    let (pages, mut browser) = (Pages::start("plain", 2000), Browser::start());
    browser.set_scripts(false);
    browser.set_look(1200, 900, false);
    browser.open(&pages.entry);
    for (name, path, _) in PAGES {
        browser.trace();
        browser.open(&format!("{}{path}", pages.base));
        assert_eq!(browser.value("document.querySelector('.live')"), json!(null), "{name}: a script has run");
        let length = browser.value("document.querySelector('main').innerText.length").as_u64().unwrap_or(0);
        assert!(length > 60, "{name} says little: {length}");
        let trace = browser.trace();
        assert!(trace.errors.is_empty(), "{name}: {:?}", trace.errors);
    }
    browser.open(&format!("{}/", pages.base));
    let plots =
        |browser: &mut Browser| browser.value("document.querySelectorAll('polyline').length").as_u64().unwrap_or(0);
    let began = Instant::now();
    while plots(&mut browser) < 5 {
        assert!(began.elapsed() < Duration::from_secs(20), "no plots without script");
        std::thread::sleep(Duration::from_millis(500));
        browser.open(&format!("{}/", pages.base));
    }

    // A click on a heading sorts, another turns the order round.
    browser.open(&format!("{}/lunasa/eager", pages.base));
    let column = "[...document.querySelectorAll('[aria-label=\"Live objects\"] tbody tr')].map((row) => row.lastChild.textContent)";
    for order in ["ascending", "descending"] {
        browser.value("[...document.querySelectorAll('th a')].find((a) => a.textContent === 'Address').click()");
        browser.until(&format!("document.querySelector('th[aria-sort=\"{order}\"]')?.textContent === 'Address' && document.readyState === 'complete'"));
        let shown: Vec<String> = serde_json::from_value(browser.value(column)).expect("a column of texts");
        assert_eq!(shown.len(), 100);
        assert!(if order == "ascending" { shown.is_sorted() } else { shown.is_sorted_by(|a, b| a >= b) }, "{shown:?}");
    }
    let first = browser.value(&format!("{column}[0]"));
    browser.value("document.querySelector('a[rel=next]').click()");
    browser.until(&format!(
        "location.search.includes('after=') && {column}[0] !== {first} && document.readyState === 'complete'"
    ));
    // The form chooses, and leads to one object in the program's own words.
    browser.value(
        "document.querySelector('input[name=type]').value = 'particles'; document.querySelector('form button').click()",
    );
    browser.until("location.search.includes('type=particles') && document.readyState === 'complete'");
    browser.value("document.querySelector('tbody a[href^=\"/lunasa/eager/0x\"]').click()");
    // The object may have gone meanwhile; the page says so then.
    browser.until("document.readyState === 'complete' && /Bytes summed|Not found/.test(document.body.innerText)");

    // From rank to rank: every link of the job page leads to the page of its rank.
    for rank in 1..RANKS {
        browser.open(&format!("{}/job", pages.base));
        browser.value(&format!(
            "[...document.querySelectorAll('#ranks tbody tr')].find((row) => row.cells[0].textContent === '{rank}').querySelector('a').click()"
        ));
        browser.until(&format!("document.title.startsWith('Rank {rank} ') && document.readyState === 'complete'"));
        assert_eq!(browser.value("location.search"), "", "the token leaves the address");
    }
    pages.end(&mut browser);
}
