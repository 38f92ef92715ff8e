//! `--set KEY=VALUE`: keys of Lunasa's configuration on the command line.

use lunasa::Config;

/// Lunasa's configuration: its file and environment, and what `--set` says.
///
/// # Errors
/// In words, when one is not `KEY=VALUE`, or not allowed.
pub fn config(settings: &[String]) -> Result<Config, String> {
    settings.iter().try_fold(Config::new(), |config, setting| {
        let (key, value) = setting
            .split_once('=')
            .ok_or_else(|| format!("--set {setting}: write KEY=VALUE, such as lunasa.status.port=2000"))?;
        config.set(key.trim(), toml_of(value)).map_err(|error| error.to_string())
    })
}

/// A value as TOML; what is no TOML is a string, so that names need no quotes within those of the shell.
fn toml_of(text: &str) -> toml::Value {
    let table: Result<toml::Table, _> = toml::from_str(&format!("value = {text}"));
    table.ok().and_then(|mut table| table.remove("value")).unwrap_or_else(|| toml::Value::String(text.trim().into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn settings_are_toml_or_else_strings() {
        assert_eq!(toml_of("2000"), toml::Value::Integer(2000));
        assert_eq!(toml_of("malloc"), toml::Value::String("malloc".into()));
        assert_eq!(toml_of("\"malloc\""), toml::Value::String("malloc".into()));
        assert_eq!(toml_of("[\"self\", \"mpi\"]").as_array().unwrap().len(), 2);
        assert_eq!(toml_of("64 KiB"), toml::Value::String("64 KiB".into()));
    }

    #[test]
    fn a_setting_without_a_value_is_explained() {
        assert!(config(&["lunasa.routes".into()]).unwrap_err().contains("KEY=VALUE"));
    }
}
