//! Tests of the configuration. Each brings its own environment; none looks at the process's.

#![allow(clippy::unwrap_used)]

use std::{fs, net::Ipv4Addr, os::unix::ffi::OsStringExt, time::Duration};

use proptest::prelude::*;
use tempfile::NamedTempFile;
use toml::Value;

use super::{units::*, *};

/// Resolves with this file and these variables.
fn resolve(config: Config, file: &str, variables: &[(&str, &str)]) -> (Result<Resolved>, String) {
    let on_disk = NamedTempFile::with_suffix(".toml").unwrap();
    fs::write(on_disk.path(), file).unwrap();
    let environment = variables.iter().map(|(name, value)| (name.into(), value.into()));
    (config.file(on_disk.path()).resolve_in(environment), on_disk.path().display().to_string())
}

/// The text of the error for this file, which is called `FILE` in it.
fn complaint(file: &str, variables: &[(&str, &str)]) -> String {
    let (resolved, path) = resolve(Config::new(), file, variables);
    resolved.unwrap_err().to_string().replace(&path, "FILE")
}

fn settings(file: &str) -> Settings {
    resolve(Config::new(), file, &[]).0.unwrap().settings
}

fn entry(resolved: &Resolved, key: &str) -> (String, String) {
    let entry = resolved.entries.iter().find(|entry| entry.key == key).unwrap();
    (entry.value.clone(), entry.source.clone())
}

#[test]
fn defaults_are_those_of_the_design() {
    let resolved = Config::new().resolve_in([]).unwrap();
    let expected = Settings {
        eager_memory_manager: ManagerKind::Tcmalloc,
        lazy_memory_manager: ManagerKind::Malloc,
        eager_when_refused: WhenRefused::Error,
        tcmalloc_min_system_alloc: 64 << 20,
        tcmalloc_max_system_alloc: 1 << 30,
        tcmalloc_reserve_ahead: 8 << 20,
        tcmalloc_release_after: Duration::from_secs(10),
        registrar: RegistrarKind::Auto,
        host_lock: false,
        pin_budget: PinBudget::Percent(75),
        verbs_device: String::new(),
        verbs_port: 0,
        verbs_gid_index: -1,
        verbs_piece: 1 << 20,
        verbs_timeout: Duration::from_millis(100),
        verbs_retries: 6,
        verbs_connect_timeout: Duration::from_secs(30),
        routes: vec![RouteKind::SelfRank, RouteKind::Shm, RouteKind::Verbs, RouteKind::Mpi],
        mpi_piece: 4 << 20,
        mpi_window: 4,
        mpi_progress: ProgressKind::Auto,
        mpi_idle: Duration::from_micros(500),
        numa_policy: NumaPolicy::Local,
        memory_huge_pages: HugePages::Auto,
        memory_touch_threads: 0,
        debug_poison: false,
        debug_quarantine: 0,
        debug_call_sites: false,
        trace_record: None,
        abort_on_panic: true,
        status_enabled: true,
        status_port: 1990,
        status_port_range: 1000,
        status_bind: Ipv4Addr::LOCALHOST.into(),
        status_interfaces: Vec::new(),
        status_listen: ListenKind::Port,
        status_rate: 1000,
        status_access: AccessKind::Token,
        status_directory: None,
        status_discovery: None,
    };
    assert_eq!(resolved.settings, expected);
    assert_eq!(resolved.entries.len(), keys().len());
    for (entry, key) in resolved.entries.iter().zip(keys()) {
        assert_eq!((&*entry.key, &*entry.value, &*entry.source), (key.name, key.default, "default"));
    }
}

#[test]
fn a_stronger_source_wins_and_is_reported() {
    let file = "[lunasa.mpi]\npiece = 65536\nwindow = 2\nidle = '100us'\n";
    let variables = [("LUNASA_MPI_WINDOW", "3"), ("LUNASA_MPI_IDLE", "200 us"), ("HOME", "/root")];
    let config = Config::new().set("lunasa.mpi.idle", "300 us").unwrap();
    let (resolved, path) = resolve(config, file, &variables);
    let resolved = resolved.unwrap();
    let is = |value: &str, source: &str| (value.to_owned(), source.to_owned());
    assert_eq!(entry(&resolved, "lunasa.mpi.progress"), is("\"auto\"", "default"));
    assert_eq!(entry(&resolved, "lunasa.mpi.piece"), is("\"64 KiB\"", &format!("file {path}")));
    assert_eq!(entry(&resolved, "lunasa.mpi.window"), is("3", "environment LUNASA_MPI_WINDOW"));
    assert_eq!(entry(&resolved, "lunasa.mpi.idle"), is("\"300 us\"", "program"));
    let settings = &resolved.settings;
    assert_eq!((settings.mpi_piece, settings.mpi_window), (64 << 10, 3));
    assert_eq!(settings.mpi_idle, Duration::from_micros(300));
}

#[test]
fn the_variable_names_a_file_unless_the_program_does() {
    let named = NamedTempFile::new().unwrap();
    fs::write(named.path(), "lunasa.mpi.window = 7").unwrap();
    let variable = || [(OsString::from("LUNASA_CONFIG"), named.path().as_os_str().to_owned())];
    let window = |config: Config| config.resolve_in(variable()).unwrap().settings.mpi_window;
    assert_eq!(window(Config::new()), 7);
    assert_eq!(window(Config::new().ignore_environment()), 4);
    let (resolved, _) = resolve(Config::new(), "lunasa.mpi.window = 9", &[("LUNASA_CONFIG", "/nowhere")]);
    assert_eq!(resolved.unwrap().settings.mpi_window, 9);
}

#[test]
fn an_ignored_environment_is_not_looked_at() {
    let (resolved, _) = resolve(Config::new().ignore_environment(), "", &[("LUNASA_NONSENSE", "1")]);
    assert_eq!(resolved.unwrap(), Config::new().resolve_in([]).unwrap());
}

#[test]
fn dotted_keys_and_tables_are_the_same() {
    let dotted = settings("lunasa.tcmalloc.min_system_alloc = '2 MiB'\nlunasa.routes = ['mpi']\n[lunasa.status]\n");
    let tables = settings("[lunasa]\nroutes = ['mpi']\n[lunasa.tcmalloc]\nmin_system_alloc = 2_097_152\n");
    assert_eq!(dotted, tables);
    assert_eq!((dotted.tcmalloc_min_system_alloc, dotted.routes), (2 << 20, vec![RouteKind::Mpi]));
}

#[test]
fn variables_are_toml_where_that_fits_and_bare_text_where_not() {
    let variables = [
        ("LUNASA_ROUTES", r#"["shm", "self"]"#),
        ("LUNASA_LAZY_MEMORY_MANAGER", "tcmalloc"),
        ("LUNASA_TCMALLOC_MAX_SYSTEM_ALLOC", "\"2 GiB\""),
        ("LUNASA_STATUS_DIRECTORY", "2024"),
        ("LUNASA_ABORT_ON_PANIC", "false"),
        ("LUNASA_STATUS_BIND", "::1"),
        ("LUNASA_TEST_ANYTHING", "x"),
        ("LUNASA_LOG", "debug"),
    ];
    let settings = resolve(Config::new(), "", &variables).0.unwrap().settings;
    assert_eq!(settings.routes, [RouteKind::Shm, RouteKind::SelfRank]);
    assert_eq!(settings.lazy_memory_manager, ManagerKind::Tcmalloc);
    assert_eq!(settings.tcmalloc_max_system_alloc, 2 << 30);
    assert_eq!(settings.status_directory, Some("2024".into()));
    assert_eq!((settings.abort_on_panic, settings.status_bind.is_ipv6()), (false, true));
}

#[test]
fn every_problem_of_every_source_is_reported_with_its_place() {
    let file =
        "lunasa.status.enabled = 1\n\n[lunasa.tcmalloc]\n  min_sytem_alloc = '1 MiB'\nmax_system_alloc = '2 TiB'\n";
    let variables = [("LUNASA_EAGER_MEMORY_MANAGER", "tcmaloc"), ("LUNASA_STATUS_PRT", "80")];
    assert_eq!(
        complaint(file, &variables),
        "configuration: 5 problems:\n  \
         FILE:1:25: lunasa.status.enabled = 1: it is of the wrong type (integer); allowed: true or false\n  \
         FILE:4:3: unknown key lunasa.tcmalloc.min_sytem_alloc (value \"1 MiB\"); did you mean \
         lunasa.tcmalloc.min_system_alloc? Its value is a size from \"1 MiB\" to \"1 TiB\", or that many bytes as a \
         number\n  \
         FILE:5:20: lunasa.tcmalloc.max_system_alloc = \"2 TiB\": it is too large; allowed: a size from \"1 MiB\" to \
         \"1 TiB\", or that many bytes as a number\n  \
         environment LUNASA_EAGER_MEMORY_MANAGER: lunasa.eager_memory_manager = \"tcmaloc\": \"tcmaloc\" is not known, \
         did you mean \"tcmalloc\"?; allowed: \"tcmalloc\" or \"malloc\"\n  \
         environment LUNASA_STATUS_PRT: unknown variable (value \"80\"); did you mean LUNASA_STATUS_PORT?"
    );
}

#[test]
fn every_kind_of_bad_value_says_why() {
    let wrong = [
        ("lunasa.mpi.piece = -1", "it is negative"),
        ("lunasa.mpi.piece = 4095", "it is too small"),
        ("lunasa.mpi.piece = '99999999999999999999 B'", "it is too large"),
        ("lunasa.mpi.piece = 9223372036854775808", "FILE:1:20: lunasa.mpi.piece = 9223372036854775808: "),
        ("lunasa.nowhere = 0xffff_ffff_ffff_ffff", "unknown key lunasa.nowhere (value \"0xffff_ffff_ffff_ffff\")"),
        ("lunasa.mpi.progress = 'on'", "allowed: \"auto\", \"thread\" or \"calls\""),
        ("lunasa.mpi.piece = '1 KB'", "\"KB\" is no unit (one of B, kB, KiB, MB, MiB, GB, GiB, TB, TiB)"),
        ("lunasa.mpi.piece = '4096'", "it has no unit"),
        ("lunasa.mpi.piece = 'MiB'", "it does not begin with a whole number"),
        ("lunasa.mpi.piece = 1.5", "it is of the wrong type (float)"),
        ("lunasa.mpi.window = 65", "it is too large; allowed: a whole number from 1 to 64"),
        ("lunasa.mpi.idle = 500", "a time needs its unit"),
        ("lunasa.mpi.idle = '2 ms'", "it is too large; allowed: a time from \"10 us\" to \"1 ms\""),
        ("lunasa.routes = []", "the list is empty"),
        ("lunasa.routes = ['shm', 'shm']", "\"shm\" is in it twice"),
        ("lunasa.routes = ['shm', 3]", "3 in it is of the wrong type (integer)"),
        ("lunasa.routes = ['smh']", "did you mean \"shm\"?"),
        ("lunasa.routes = { shm = 1 }", "it is of the wrong type (table)"),
        ("lunasa.status.bind = 'localhost'", "it is no IP address"),
        ("lunasa.status.port = 65536", "it is too large"),
        ("lunasa.tcmalloc = 5", "unknown key lunasa.tcmalloc (value 5)"),
        ("port = 5", "did you mean lunasa.verbs.port?"),
        ("lunasa.min_system_alloc = 5", "did you mean lunasa.tcmalloc.min_system_alloc?"),
        ("[lunasa.nowhere]", "unknown key lunasa.nowhere (value {})"),
        ("[[lunasa.mpi]]\npiece = 4096", "unknown key lunasa.mpi (value [{ piece = 4096 }])"),
        ("'lunasa.mpi.window' = 5", "unknown key \"lunasa.mpi.window\" (value 5); did you mean lunasa.mpi.window?"),
    ];
    for (file, why) in wrong {
        let complaint = complaint(file, &[]);
        assert!(complaint.starts_with("configuration: FILE:1:"), "{file}: {complaint}");
        assert!(complaint.contains(why), "{file}: {complaint}");
    }
}

#[test]
fn all_that_is_not_toml_is_reported_by_line_and_column() {
    let complaint = complaint("lunasa.mpi.window = 4\nlunasa.mpi.window = 5\nlunasa.routes = [\"é\" \"b\"]\n", &[]);
    assert_eq!(
        complaint,
        "configuration: 2 problems:\n  FILE:2:12: not TOML: duplicate key\n  \
         FILE:3:22: not TOML: missing comma between array elements, expected `,`"
    );
}

#[test]
fn the_key_that_was_probably_meant_is_named() {
    let meant = |written: &str| nearest(written, keys().iter().map(|key| key.name));
    for key in keys() {
        assert_eq!(meant(&key.name.replace('.', "_")), key.name);
        assert_eq!(meant(&key.name.replacen("lunasa.", "", 1)), key.name);
        for at in 0..key.name.len() {
            let mut short = key.name.to_owned();
            short.remove(at);
            assert_eq!(meant(&short), key.name, "{short}");
        }
    }
}

#[test]
fn a_bad_variable_is_shown_as_the_type_it_was_taken_for() {
    let number = complaint("", &[("LUNASA_MPI_WINDOW", "65")]);
    assert!(
        number.ends_with("lunasa.mpi.window = 65: it is too large; allowed: a whole number from 1 to 64"),
        "{number}"
    );
    let text = complaint("", &[("LUNASA_MPI_WINDOW", "a few")]);
    assert!(text.contains("lunasa.mpi.window = \"a few\": it is of the wrong type (string)"), "{text}");
}

#[test]
fn every_unit_is_worth_what_its_name_says() {
    for (power, unit) in ["B", "kB", "MB", "GB", "TB"].iter().enumerate() {
        assert_eq!(parse_size(&format!("3 {unit}")), Ok(3 * 1000_u64.pow(power as u32)));
    }
    for (power, unit) in ["B", "KiB", "MiB", "GiB", "TiB"].iter().enumerate() {
        assert_eq!(parse_size(&format!("3{unit}")), Ok(3 * 1024_u64.pow(power as u32)));
    }
    for (power, unit) in ["ns", "us", "ms", "s"].iter().enumerate() {
        let expected = Duration::from_nanos(3 * 1000_u64.pow(power as u32));
        assert_eq!(parse_duration(&format!("3 {unit}")), Ok(expected));
    }
    assert_eq!((parse_size("16777215 TiB").is_ok(), parse_size("16777216 TiB").is_err()), (true, true));
    assert_eq!((size_text(0), size_text(4000), size_text(1 << 20)), ("0 B".into(), "4 kB".into(), "1 MiB".into()));
}

#[test]
fn files_that_cannot_be_read_are_errors() {
    let missing = Config::new().file("/nowhere/x.toml").resolve_in([]).unwrap_err();
    let text = "configuration: cannot read the file /nowhere/x.toml: No such file or directory (os error 2)";
    assert_eq!(missing.to_string(), text);
    let variable = [("LUNASA_CONFIG".into(), "/".into())];
    let directory = Config::new().resolve_in(variable).unwrap_err().to_string();
    assert!(directory.contains("cannot read the file / (named by LUNASA_CONFIG): Is a directory"), "{directory}");
    let binary = NamedTempFile::new().unwrap();
    fs::write(binary.path(), [0xff, 0xfe]).unwrap();
    let binary = Config::new().file(binary.path()).resolve_in([]).unwrap_err().to_string();
    assert!(binary.contains("UTF-8"), "{binary}");
}

#[test]
fn a_variable_that_is_not_utf8_is_an_error() {
    let variable = [("LUNASA_STATUS_DIRECTORY".into(), OsString::from_vec(vec![b'/', 0xff]))];
    let text = Config::new().resolve_in(variable).unwrap_err().to_string();
    assert_eq!(text, r#"configuration: environment LUNASA_STATUS_DIRECTORY: its value "/\xFF" is not UTF-8"#);
}

#[test]
fn a_program_that_sets_something_wrong_is_told_at_once() {
    let unknown = Config::new().set("lunasa.mpi.peice", 5).unwrap_err();
    let allowed = "a size from \"4 KiB\" to \"1 GiB\", or that many bytes as a number";
    assert_eq!(
        unknown.to_string(),
        format!(
            "configuration: program: unknown key lunasa.mpi.peice (value 5); did you mean lunasa.mpi.piece? \
             Its value is {allowed}"
        )
    );
    let small = Config::new().set("lunasa.mpi.piece", 5).unwrap_err();
    let text = format!("configuration: program: lunasa.mpi.piece = 5: it is too small; allowed: {allowed}");
    assert_eq!(small.to_string(), text);
}

#[test]
fn what_the_program_set_is_kept_in_canonical_form() {
    let config = Config::new().set("lunasa.mpi.piece", 65536).unwrap().set("lunasa.status.bind", "0::1").unwrap();
    let same = Config::new().set("lunasa.status.bind", "::1").unwrap().set("lunasa.mpi.piece", "64KiB").unwrap();
    assert_eq!(config.overrides(), same.overrides());
    assert_eq!(config.overrides()["lunasa.mpi.piece"], Value::from("64 KiB"));
}

#[test]
fn blocks_cannot_shrink_as_a_pool_grows() {
    let variables = [("LUNASA_TCMALLOC_MIN_SYSTEM_ALLOC", "2 GiB")];
    assert_eq!(
        complaint("\nlunasa.tcmalloc.max_system_alloc = '1 GiB'", &variables),
        "configuration: FILE:2:36: lunasa.tcmalloc.max_system_alloc = \"1 GiB\": it is below \
         lunasa.tcmalloc.min_system_alloc = \"2 GiB\" (environment LUNASA_TCMALLOC_MIN_SYSTEM_ALLOC); raise the one or \
         lower the other; allowed: a size from \"1 MiB\" to \"1 TiB\", or that many bytes as a number"
    );
    // A first size that is wrong by itself is the only thing to complain of.
    let file = "lunasa.tcmalloc.min_system_alloc = 5\nlunasa.tcmalloc.max_system_alloc = '1 MiB'";
    assert!(!complaint(file, &[]).contains("problems"));
}

#[test]
fn long_and_broken_values_are_shown_on_one_short_line() {
    let complaint = complaint(&format!("lunasa.registrar = \"\"\"\n{}\n\n\"\"\"", "é".repeat(500)), &[]);
    assert_eq!(complaint.lines().count(), 1);
    assert!(complaint.contains("ééé...: "), "{complaint}");
}

#[test]
fn json_carries_the_configuration_whole() {
    let file = "lunasa.status.directory = '/var/tmp'\nlunasa.mpi.piece = 4097\nlunasa.mpi.idle = '123456 ns'";
    let resolved = resolve(Config::new(), file, &[]).0.unwrap();
    let json = serde_json::to_string(&resolved).unwrap();
    assert_eq!(serde_json::from_str::<Resolved>(&json).unwrap(), resolved);
    assert_eq!(resolved.settings.mpi_idle, Duration::from_nanos(123_456));
}

#[test]
fn displayed_choices_are_their_names_in_toml() {
    assert_eq!(RouteKind::SelfRank.to_string(), "self");
    assert_eq!(serde_json::to_string(&RouteKind::SelfRank).unwrap(), "\"self\"");
    assert_eq!(format!("{:>8}", HugePages::Require), " require");
}

/// With `LUNASA_TEST_WRITE` set, writes what the table of keys says instead of comparing.
fn hold(path: &str, on_disk: &str, expected: &str) {
    if std::env::var_os("LUNASA_TEST_WRITE").is_some() {
        fs::write(path, expected).unwrap();
    } else {
        let cure = "LUNASA_TEST_WRITE=1 cargo test config writes it anew";
        let differing = on_disk.lines().zip(expected.lines()).find(|(is, should_be)| is != should_be);
        assert!(on_disk == expected, "{path} is not what the table of keys says: {differing:?}; {cure}");
    }
}

#[test]
fn the_reference_file_is_that_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/lunasa.toml");
    hold(path, &fs::read_to_string(path).unwrap_or_default(), &reference());
    assert!(reference().lines().all(|line| line.len() <= 120));
}

#[test]
fn the_table_in_the_documentation_is_that_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let text = fs::read_to_string(path).unwrap();
    let (head, rest) = text.split_once("<!-- keys: begin -->\n").unwrap();
    let (_, tail) = rest.split_once("<!-- keys: end -->").unwrap();
    let row = |key: &KeySpec| format!("| `{}` | `{}` | {} | {} |\n", key.name, key.default, key.allowed, key.about);
    let rows: String = keys().iter().map(row).collect();
    let table = format!("| key | default | allowed | what it is for |\n| --- | --- | --- | --- |\n{rows}");
    hold(path, &text, &format!("{head}<!-- keys: begin -->\n{table}<!-- keys: end -->{tail}"));
}

#[test]
fn the_files_in_configs_are_accepted() {
    let folder = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/configs")).unwrap();
    let lunasa_files: Vec<_> = folder
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .filter(|path| !path.ends_with("demo.toml"))
        .collect();
    assert!(lunasa_files.len() >= 4);
    for path in lunasa_files {
        Config::new().file(&path).resolve_in([]).unwrap();
    }
    let reference = settings(&reference());
    assert_eq!(reference, Config::new().resolve_in([]).unwrap().settings);
}

/// Text that looks like a configuration, more or less.
fn nearly_toml() -> impl Strategy<Value = String> {
    let key = proptest::sample::select(keys()).prop_map(|key| key.name.to_owned());
    let value = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<u128>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| number.to_string()),
        "[0-9]{1,21} ?(B|kB|[KMGT]iB|[munµ]?s)".prop_map(|text| format!("'{text}'")),
        r#"\[('(self|shm|mpi|é)',? ?){0,4}\]"#,
        "(true|false|\\{\\}|\\[\\]|1979-05-27|'''\\n\\n'''|\"\\PC{0,9}\")",
        "\\PC{0,12}",
    ];
    let line = prop_oneof![
        8 => (key, value).prop_map(|(key, value)| format!("{key} = {value}")),
        1 => "\\[{0,2}(lunasa)?\\.?(mpi|routes|é)?\\]{0,2}",
        1 => "\\PC{0,20}",
    ];
    proptest::collection::vec(line, 0..6).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn sizes_and_durations_survive_their_text(amount: u64, shift in 0u32..64) {
        for amount in [amount, amount >> shift, amount << shift] {
            prop_assert_eq!(parse_size(&size_text(amount)), Ok(amount));
            let duration = Duration::from_nanos(amount);
            prop_assert_eq!(parse_duration(&duration_text(duration)), Ok(duration));
        }
    }

    #[test]
    fn random_text_is_an_error_or_a_configuration_and_never_a_panic(file in nearly_toml()) {
        let (resolved, path) = resolve(Config::new(), &file, &[]);
        match resolved {
            Ok(resolved) => {
                // What was accepted is accepted again as it is reported.
                let line = |entry: &ConfigEntry| format!("{} = {}\n", entry.key, entry.value);
                let again: String = resolved.entries.iter().map(line).collect();
                prop_assert_eq!(settings(&again), resolved.settings);
            }
            Err(error) => prop_assert!(error.to_string().contains(&path)),
        }
    }

    #[test]
    fn random_variables_are_an_error_or_a_configuration_and_never_a_panic(
        key in proptest::sample::select(keys()), value in "\\PC{0,20}|[\\[\\]{}'\"=,. 0-9a-z\\n]{0,20}"
    ) {
        let environment = [(key.variable().into(), value.into())];
        if let Err(error) = Config::new().resolve_in(environment) {
            prop_assert!(error.to_string().contains(&key.variable()));
        }
    }
}
