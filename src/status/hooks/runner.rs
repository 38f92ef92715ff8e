//! Running the program's functions: on a helper thread, or on the program's own when it comes by; each with a time limit.

use std::any::Any;
use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::super::server::yield_to_everybody;
use super::HookReply;

/// Calls that may wait for the program to come by.
const WAITING: usize = 64;

/// One call of a program's function.
pub(super) type Call = Box<dyn FnOnce() -> HookReply + Send>;

/// How a call ended.
#[derive(Debug)]
pub(in super::super) enum Ended {
    /// With an answer.
    Reply(HookReply),
    /// With a panic.
    Panicked,
    /// Not within its time.
    TooLong,
    /// It was not begun: another is stuck, or too many wait.
    Busy,
}

/// Where calls run.
#[derive(Default)]
pub(super) struct Runner {
    /// The helper thread, once there is one.
    helper: Mutex<Option<Sender<Task>>>,
    /// Whether a call on it has not come back in its time; until it does.
    stuck: Arc<AtomicBool>,
    /// What waits for the program, and how many that are.
    waiting: Mutex<VecDeque<Task>>,
    count: AtomicUsize,
}

struct Task {
    name: String,
    call: Call,
    begun: Arc<AtomicBool>,
    answer: oneshot::Sender<Option<HookReply>>,
}

impl Runner {
    /// Runs a call on the helper thread, and waits `limit` for it at most.
    pub(super) async fn here(&self, name: &str, call: Call, limit: Duration) -> Ended {
        if self.stuck.load(Ordering::Acquire) {
            return Ended::Busy;
        }
        let (task, answer) = Task::new(name, call);
        let begun = task.begun.clone();
        if !self.hand_to_helper(task) {
            return Ended::Busy;
        }
        let ended = waited(answer, limit).await;
        if matches!(ended, Ended::TooLong) {
            if !begun.load(Ordering::Acquire) {
                return Ended::Busy;
            }
            tracing::warn!("the hook {name:?} has not answered within {limit:?}; no other runs until it comes back");
            self.stuck.store(true, Ordering::Release);
            // It may have come back just now.
            let _ = self.hand_to_helper(Task::new("", Box::new(|| HookReply::text(""))).0);
        }
        ended
    }

    /// Leaves a call to the program, and waits `limit` for it at most.
    pub(super) async fn by_program(&self, name: &str, call: Call, limit: Duration) -> Ended {
        let (task, answer) = Task::new(name, call);
        {
            let mut waiting = lock(&self.waiting);
            // Those that were given up make room.
            waiting.retain(|task| !task.answer.is_closed());
            if waiting.len() >= WAITING {
                return Ended::Busy;
            }
            waiting.push_back(task);
            self.count.store(waiting.len(), Ordering::Release);
        }
        waited(answer, limit).await
    }

    /// Runs all calls that wait for the program, on its thread; how many.
    pub(super) fn poll(&self) -> usize {
        // What a program's loop pays for every round with nothing to do.
        if self.count.load(Ordering::Acquire) == 0 {
            return 0;
        }
        let tasks = {
            let mut waiting = lock(&self.waiting);
            self.count.store(0, Ordering::Release);
            std::mem::take(&mut *waiting)
        };
        tasks.into_iter().filter(|task| !task.answer.is_closed()).map(Task::run).count()
    }

    fn hand_to_helper(&self, task: Task) -> bool {
        let mut helper = lock(&self.helper);
        if helper.is_none() {
            let (sender, receiver) = channel();
            let stuck = self.stuck.clone();
            let thread = std::thread::Builder::new().name("lunasa-hooks".into()).spawn(move || help(&receiver, &stuck));
            match thread {
                Ok(_) => *helper = Some(sender),
                Err(error) => tracing::warn!("hooks cannot run: the system gives no thread: {error}"),
            }
        }
        helper.as_ref().is_some_and(|sender| sender.send(task).is_ok())
    }
}

/// The helper thread: ends with its runner.
fn help(tasks: &Receiver<Task>, stuck: &AtomicBool) {
    yield_to_everybody();
    for task in tasks {
        stuck.store(false, Ordering::Release);
        if !task.answer.is_closed() {
            task.run();
        }
    }
}

async fn waited(answer: oneshot::Receiver<Option<HookReply>>, limit: Duration) -> Ended {
    match tokio::time::timeout(limit, answer).await {
        Err(_) => Ended::TooLong,
        Ok(Ok(Some(reply))) => Ended::Reply(reply),
        Ok(Ok(None)) => Ended::Panicked,
        // Its thread, or the instance, is ending.
        Ok(Err(_)) => Ended::Busy,
    }
}

impl Task {
    fn new(name: &str, call: Call) -> (Self, oneshot::Receiver<Option<HookReply>>) {
        let (answer, answered) = oneshot::channel();
        (Self { name: name.to_owned(), call, begun: Arc::default(), answer }, answered)
    }

    fn run(self) {
        let Self { name, call, begun, answer } = self;
        begun.store(true, Ordering::Release);
        let reply = {
            let _contained = Contained::enter();
            // What a hook leaves half done when it panics is its own: nothing of ours is borrowed by it.
            catch_unwind(AssertUnwindSafe(call))
        };
        let reply = reply.inspect_err(|panic| tracing::error!("the hook {name:?} panicked: {}", words(panic.as_ref())));
        // Who asked may have gone.
        let _ = answer.send(reply.ok());
    }
}

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread is caught by the endpoint and becomes a 500: true while a hook runs on it.
///
/// A panic hook that ends the job asks this first, and leaves such a panic alone.
pub fn panics_are_contained() -> bool {
    CONTAINED.get()
}

struct Contained(bool);

impl Contained {
    fn enter() -> Self {
        Self(CONTAINED.replace(true))
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        CONTAINED.set(self.0);
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)")
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
