//! Hooks: the program's own functions behind `/hooks/NAME`.

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::is_name;
use crate::error::{Error, Result};

type Hook = Arc<dyn Fn(&HookRequest) -> HookReply + Send + Sync>;

/// The hooks of an instance; clones share one registry.
///
/// Hooks run on the endpoint's thread, one at a time: a hook that takes long keeps every page waiting.
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
    by_name: Arc<Mutex<BTreeMap<String, Hook>>>,
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
        if !is_name(name) {
            return Err(Error::Endpoint(format!(
                "{name:?} cannot name a hook: 1 to 64 letters, digits, \"_\", \".\" or \"-\" are allowed"
            )));
        }
        let mut hooks = self.lock();
        if hooks.contains_key(name) {
            return Err(Error::Endpoint(format!("a hook {name:?} is registered already; deregister it first")));
        }
        hooks.insert(name.to_string(), Arc::new(hook));
        Ok(())
    }

    /// Takes a hook away; whether there was one. A call that is under way ends by itself.
    pub fn deregister(&self, name: &str) -> bool {
        let hook = self.lock().remove(name);
        hook.is_some()
    }

    /// The names of all hooks, sorted.
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Runs a hook: `None` when there is none of that name, `Some(None)` when it panicked.
    pub(super) fn run(&self, name: &str, request: &HookRequest) -> Option<Option<HookReply>> {
        // The lock is not held while it runs, so that a hook may register and deregister.
        let hook = self.lock().get(name).cloned()?;
        let _contained = Contained::enter();
        // What a hook leaves half done when it panics is its own: nothing of ours is borrowed by it.
        let reply = catch_unwind(AssertUnwindSafe(|| hook(request)));
        Some(reply.inspect_err(|panic| tracing::error!("the hook {name:?} panicked: {}", words(panic.as_ref()))).ok())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Hook>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hooks").field(&self.names()).finish()
    }
}

/// What a hook is asked.
#[derive(Debug, Clone, Default)]
pub struct HookRequest {
    /// The arguments of the URL, decoded, in their order. They are whatever the asker wrote: escape them.
    pub arguments: Vec<(String, String)>,
}

impl HookRequest {
    /// The first argument of that name.
    pub fn argument(&self, name: &str) -> Option<&str> {
        self.arguments.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// What a hook answers.
#[derive(Debug, Clone)]
pub struct HookReply {
    pub(super) body: HookBody,
}

#[derive(Debug, Clone)]
pub(super) enum HookBody {
    Fragment(String),
    Whole { content_type: String, bytes: Vec<u8> },
}

impl HookReply {
    /// A piece of HTML, shown inside Lunasa's page. `maud::html!` escapes what is put into it; a `String` is taken as it is.
    pub fn html(fragment: impl Into<String>) -> Self {
        Self { body: HookBody::Fragment(fragment.into()) }
    }

    /// Plain text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::bytes("text/plain; charset=utf-8", text.into().into_bytes())
    }

    /// JSON.
    pub fn json(value: serde_json::Value) -> Self {
        Self::bytes("application/json", value.to_string().into_bytes())
    }

    /// Bytes of any content type. One that no header can carry is sent as `application/octet-stream`.
    pub fn bytes(content_type: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { body: HookBody::Whole { content_type: content_type.into(), bytes } }
    }
}

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread is caught by the endpoint and becomes a 500: true on its thread while a hook runs.
///
/// A panic hook that ends the job asks this first, and leaves such a panic alone.
pub fn panics_are_contained() -> bool {
    CONTAINED.get()
}

struct Contained;

impl Contained {
    fn enter() -> Self {
        CONTAINED.set(true);
        Self
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        CONTAINED.set(false);
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
        hooks.register("ask", |_| HookReply::text(panics_are_contained().to_string())).unwrap();
        hooks.register("panic", |_| panic!("on purpose")).unwrap();
        assert!(!panics_are_contained());
        let HookBody::Whole { bytes, .. } = hooks.run("ask", &HookRequest::default()).unwrap().unwrap().body else {
            unreachable!()
        };
        assert_eq!(bytes, b"true");
        assert!(hooks.run("panic", &HookRequest::default()).unwrap().is_none());
        assert!(!panics_are_contained());
    }

    #[test]
    fn a_hook_may_deregister_itself() {
        let hooks = Hooks::new();
        let own = hooks.clone();
        hooks.register("once", move |_| HookReply::text(own.deregister("once").to_string())).unwrap();
        assert!(hooks.run("once", &HookRequest::default()).unwrap().is_some());
        assert!(hooks.run("once", &HookRequest::default()).is_none());
    }
}
