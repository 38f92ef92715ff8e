//! `--set KEY=VALUE`: keys of Lunasa's configuration on the command line.

use lunasa::{Config, Error, Result};

/// Lunasa's configuration: its file and environment, and what `--set` says.
pub fn config(settings: &[String]) -> Result<Config> {
    settings.iter().try_fold(Config::new(), |config, setting| {
        let (key, value) = setting.split_once('=').ok_or_else(|| {
            Error::Config(format!("--set {setting}: write KEY=VALUE, such as lunasa.status.port=2000"))
        })?;
        config.set(key.trim(), setting_value(value))
    })
}

/// A value as TOML; what is no TOML is a string, so that names need no quotes within those of the shell.
fn setting_value(text: &str) -> toml::Value {
    let table: Result<toml::Table, _> = toml::from_str(&format!("value = {text}"));
    table.ok().and_then(|mut table| table.remove("value")).unwrap_or_else(|| toml::Value::String(text.trim().into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn settings_are_toml_or_else_strings() {
        assert_eq!(setting_value("2000"), toml::Value::Integer(2000));
        assert_eq!(setting_value("malloc"), toml::Value::String("malloc".into()));
        assert_eq!(setting_value("\"malloc\""), toml::Value::String("malloc".into()));
        assert_eq!(setting_value("[\"self\", \"mpi\"]").as_array().unwrap().len(), 2);
        assert_eq!(setting_value("64 KiB"), toml::Value::String("64 KiB".into()));
    }

    #[test]
    fn a_setting_without_a_value_is_explained() {
        assert!(config(&["lunasa.routes".into()]).unwrap_err().to_string().contains("KEY=VALUE"));
    }
}
