//! `lunasa hook`: asks a hook of a running program, and prints what it answers.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use crate::client::{Ask, Place, ask};
use crate::status::{self, Files, jobs};

/// Bytes of an answer, at most.
const ANSWER: usize = 1 << 30;
/// How long the list of a job's ranks may take.
const LIST_TIME: Duration = Duration::from_secs(5);

/// What `lunasa hook` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The rank's URL, as it prints it; without a token that of the job is looked for, if it is yours
    url: String,
    /// The hook
    name: String,
    /// What the hook is given
    #[arg(value_name = "KEY=VALUE", value_parser = pair)]
    arguments: Vec<(String, String)>,
    /// Use POST, for a hook that changes something
    #[arg(long)]
    post: bool,
    /// How long to wait for the answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = status::seconds)]
    timeout: Duration,
    #[command(flatten)]
    files: Files,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Runs it: 0 when the hook answered, 1 when it refused or failed, 2 when it could not be asked.
pub fn run(options: &Options) -> ExitCode {
    match crate::in_event_loop(call(options)) {
        Ok(code) => code,
        Err(error) => crate::failed("hook", &error),
    }
}

async fn call(options: &Options) -> Result<ExitCode, String> {
    let (place, token) = Place::of_url(&options.url)?;
    let token = match token {
        None => jobs::token_for(&options.files.notes()?, &place, LIST_TIME).await,
        token => token,
    };
    let arguments = form_urlencoded::Serializer::new(String::new()).extend_pairs(&options.arguments).finish();
    let name: String = form_urlencoded::byte_serialize(options.name.as_bytes()).collect();
    let path = format!("/hooks/{name}");
    let target = if options.post || arguments.is_empty() { path } else { format!("{path}?{arguments}") };
    let asked = Ask { target: &target, secret: token.as_deref(), form: options.post.then_some(arguments) };
    let reply = ask(&place, asked, options.timeout, ANSWER).await;
    let reply = reply.map_err(|reason| format!("{}: {reason}", status::without_token(&options.url)))?;
    let words = |error: std::io::Error| format!("the answer cannot be written: {error}");
    if reply.status.is_success() {
        std::io::stdout().write_all(&reply.body).map_err(words)?;
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("lunasa hook: {} answers {}", options.name, reply.status);
    std::io::stderr().write_all(&reply.body).map_err(words)?;
    Ok(ExitCode::from(1))
}
