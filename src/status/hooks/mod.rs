//! Hooks: the program's own functions behind `/hooks/NAME`, and its own words for what is in its objects.

mod reply;
mod runner;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::Method;

use super::is_name;
use crate::error::{Error, Result};
use crate::snapshot::ObjectDump;

pub(super) use reply::HookBody;
pub use reply::{HookPage, HookReply, HookRequest};
pub(super) use runner::Ended;
use runner::Runner;
pub use runner::panics_are_contained;

type Hook = Arc<dyn Fn(&HookRequest) -> HookReply + Send + Sync>;
type Dump = Arc<dyn Fn(&ObjectDump) -> HookReply + Send + Sync>;

/// How a hook is run.
#[derive(Debug, Clone)]
pub struct HookOptions {
    post: bool,
    by_program: bool,
    time_limit: Duration,
    about: String,
}

impl Default for HookOptions {
    fn default() -> Self {
        Self { post: false, by_program: false, time_limit: Duration::from_secs(2), about: String::new() }
    }
}

impl HookOptions {
    /// A hook that answers GET, on the endpoint's side, within two seconds.
    pub fn new() -> Self {
        Self::default()
    }

    /// It answers POST too: it may change something. Pages of other places cannot cause that: their `Origin` is refused.
    pub fn post(self) -> Self {
        Self { post: true, ..self }
    }

    /// It is run by `Lunasa::poll_hooks`, on the program's thread, so that it may touch what the program computes with.
    pub fn by_program(self) -> Self {
        Self { by_program: true, ..self }
    }

    /// How long the asker waits, at most; then the answer is 504.
    pub fn time_limit(self, time_limit: Duration) -> Self {
        Self { time_limit, ..self }
    }

    /// A few words for the list of hooks.
    pub fn about(self, about: impl Into<String>) -> Self {
        Self { about: about.into(), ..self }
    }
}

/// One line of the list of hooks.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub(super) struct HookInfo {
    pub(super) name: String,
    pub(super) about: String,
    /// Whether it answers POST too.
    pub(super) post: bool,
    /// Whether the program runs it.
    pub(super) by_program: bool,
    pub(super) time_limit_s: f64,
}

/// The hooks of an instance; clones share one registry.
///
/// A hook runs on a thread of its own beside the endpoint (`lunasa-hooks`, of the lowest priority), one at a time and within
/// its time limit; or, with [`HookOptions::by_program`], on the thread that calls `Lunasa::poll_hooks`. One that takes longer
/// is answered with 504; as long as it keeps the thread, other hooks are answered with 503. Pages are not held up by it.
///
/// ```
/// use lunasa::status::{HookReply, Hooks};
///
/// let hooks = Hooks::new();
/// hooks.register("greet", |request| {
///     HookReply::text(format!("Hello {}", request.argument("name").unwrap_or("you")))
/// })?;
/// assert_eq!(hooks.names(), ["greet"]);
/// assert!(hooks.deregister("greet"));
/// # Ok::<(), lunasa::error::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Hooks {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    by_name: Mutex<BTreeMap<String, (Hook, HookOptions)>>,
    dumps: Mutex<BTreeMap<u32, Dump>>,
    runner: Runner,
}

impl Hooks {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `hook` behind `/hooks/NAME`.
    ///
    /// # Errors
    /// When the name is not 1 to 64 letters, digits, `_`, `.` or `-` (or is `.` or `..`), or is taken.
    pub fn register(&self, name: &str, hook: impl Fn(&HookRequest) -> HookReply + Send + Sync + 'static) -> Result<()> {
        self.register_with(name, HookOptions::default(), hook)
    }

    /// As [`Hooks::register`], with options.
    ///
    /// # Errors
    /// As for [`Hooks::register`].
    pub fn register_with(
        &self,
        name: &str,
        options: HookOptions,
        hook: impl Fn(&HookRequest) -> HookReply + Send + Sync + 'static,
    ) -> Result<()> {
        if !is_name(name) {
            return Err(Error::Endpoint(format!(
                "{name:?} cannot name a hook: 1 to 64 letters, digits, \"_\", \".\" or \"-\" are allowed"
            )));
        }
        let mut hooks = lock(&self.shared.by_name);
        if hooks.contains_key(name) {
            return Err(Error::Endpoint(format!("a hook {name:?} is registered already; deregister it first")));
        }
        hooks.insert(name.to_string(), (Arc::new(hook), options));
        Ok(())
    }

    /// Takes a hook away; whether there was one. A call that is under way ends by itself.
    pub fn deregister(&self, name: &str) -> bool {
        let hook = lock(&self.shared.by_name).remove(name);
        hook.is_some()
    }

    /// The names of all hooks, sorted.
    pub fn names(&self) -> Vec<String> {
        lock(&self.shared.by_name).keys().cloned().collect()
    }

    /// Shows what is in an object of this type by `dump` instead of as bytes: on the page of the object, and run as a hook
    /// is. It sees a copy of the metadata and of the data, a MiB of each at most. Replaces a former one.
    pub fn register_dump(&self, type_id: u32, dump: impl Fn(&ObjectDump) -> HookReply + Send + Sync + 'static) {
        lock(&self.shared.dumps).insert(type_id, Arc::new(dump));
    }

    /// Runs the hooks that wait for the program ([`HookOptions::by_program`]), on this thread; how many. Costs one load
    /// when there are none. In a forked child it does nothing.
    pub fn poll(&self) -> usize {
        if crate::memory::in_forked_child() { 0 } else { self.shared.runner.poll() }
    }

    pub(super) fn list(&self) -> Vec<HookInfo> {
        let info = |(name, (_, options)): (&String, &(Hook, HookOptions))| HookInfo {
            name: name.clone(),
            about: options.about.clone(),
            post: options.post,
            by_program: options.by_program,
            time_limit_s: options.time_limit.as_secs_f64(),
        };
        lock(&self.shared.by_name).iter().map(info).collect()
    }

    /// Whether the hook of this name answers POST; none when there is no such hook.
    pub(super) fn answers_post(&self, name: &str) -> Option<bool> {
        lock(&self.shared.by_name).get(name).map(|(_, options)| options.post)
    }

    /// Runs a hook; none when there is none of that name.
    pub(super) async fn run(&self, name: &str, request: HookRequest) -> Option<Ended> {
        // The lock is not held while it runs, so that a hook may register and deregister.
        let (hook, options) = lock(&self.shared.by_name).get(name).cloned()?;
        let call = Box::new(move || hook(&request));
        let runner = &self.shared.runner;
        Some(match options.by_program {
            true => runner.by_program(name, call, options.time_limit).await,
            false => runner.here(name, call, options.time_limit).await,
        })
    }

    /// Whether objects of this type have words of the program's own.
    pub(super) fn has_dump(&self, type_id: u32) -> bool {
        lock(&self.shared.dumps).contains_key(&type_id)
    }

    /// What the program says of an object; none when it has no words for that type.
    pub(super) async fn describe(&self, object: ObjectDump) -> Option<Ended> {
        let dump = lock(&self.shared.dumps).get(&object.info.type_id).cloned()?;
        let name = format!("dump of type {}", object.info.type_id);
        let limit = HookOptions::default().time_limit;
        Some(self.shared.runner.here(&name, Box::new(move || dump(&object)), limit).await)
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hooks").field(&self.names()).finish()
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The methods of a hook, as `Allow` lists them.
pub(super) fn allowed(post: bool) -> &'static str {
    if post { "GET, HEAD, POST" } else { "GET, HEAD" }
}

/// Whether a method asks for something and changes nothing.
pub(super) fn is_reading(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn run(hooks: &Hooks, name: &str) -> Option<Ended> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(hooks.run(name, HookRequest::default()))
    }

    fn text(ended: Option<Ended>) -> String {
        match ended {
            Some(Ended::Reply(HookReply { body: HookBody::Whole { bytes, .. } })) => String::from_utf8(bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_that_do_not_fit_a_path_are_refused() {
        let hooks = Hooks::new();
        for bad in ["", ".", "..", "a/b", "a b", "<b>", "ü", "a%2f", &"x".repeat(65)] {
            assert!(hooks.register(bad, |_| HookReply::text("")).is_err(), "{bad:?}");
        }
        for good in ["a", "A-z_0.9", &"x".repeat(64)] {
            hooks.register(good, |_| HookReply::text("")).unwrap();
        }
        assert_eq!(hooks.names().len(), 3);
    }

    #[test]
    fn a_taken_name_is_refused_until_it_is_deregistered() {
        let hooks = Hooks::new();
        hooks.register("a", |_| HookReply::text("1")).unwrap();
        assert!(hooks.clone().register("a", |_| HookReply::text("2")).is_err());
        assert!(hooks.deregister("a"));
        assert!(!hooks.deregister("a"));
        hooks.register("a", |_| HookReply::text("2")).unwrap();
    }

    #[test]
    fn panics_are_contained_only_while_a_hook_runs() {
        let hooks = Hooks::new();
        let post = HookOptions::new().by_program();
        hooks.register("ask", |_| HookReply::text(panics_are_contained().to_string())).unwrap();
        hooks.register("panic", |_| panic!("on purpose")).unwrap();
        hooks.register_with("ours", post, |_| panic!("on purpose, in the program's own thread")).unwrap();
        assert!(!panics_are_contained());
        assert_eq!(text(run(&hooks, "ask")), "true");
        assert!(matches!(run(&hooks, "panic"), Some(Ended::Panicked)));
        let polled = hooks.clone();
        let ours = std::thread::spawn(move || run(&polled, "ours"));
        while hooks.poll() == 0 {
            std::thread::yield_now();
        }
        assert!(matches!(ours.join().unwrap(), Some(Ended::Panicked)));
        assert!(!panics_are_contained());
    }

    #[test]
    fn a_hook_may_deregister_itself() {
        let hooks = Hooks::new();
        let own = hooks.clone();
        hooks.register("once", move |_| HookReply::text(own.deregister("once").to_string())).unwrap();
        assert_eq!(text(run(&hooks, "once")), "true");
        assert!(run(&hooks, "once").is_none());
    }
}
