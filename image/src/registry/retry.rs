//! When something is tried again, how long is waited, and how all of it is called off.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::{Error, ErrorKind, Result};

/// Calls an operation off, from any thread, for good.
#[derive(Clone, Default)]
pub struct Cancel(Arc<CancelState>);

#[derive(Default)]
struct CancelState {
    flag: AtomicBool,
    hooks: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
    bell: Condvar,
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cancel").field(&self.is_cancelled()).finish()
    }
}

impl Cancel {
    /// Nothing called off yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another one, which is called off with this one, but not the other way around.
    #[must_use]
    pub fn child(&self) -> Self {
        let child = Self::new();
        let other = child.clone();
        self.on_cancel(move || other.cancel());
        child
    }

    /// Calls off: sleepers wake, connections in use are shut down.
    pub fn cancel(&self) {
        let mut hooks = self.hooks();
        self.0.flag.store(true, Ordering::SeqCst);
        let hooks = std::mem::take(&mut *hooks);
        self.0.bell.notify_all();
        for hook in hooks {
            hook();
        }
    }

    /// Whether it was called off.
    pub fn is_cancelled(&self) -> bool {
        self.0.flag.load(Ordering::SeqCst)
    }

    /// An error if it was called off.
    pub fn check(&self) -> Result<()> {
        match self.is_cancelled() {
            true => Err(Error::new(ErrorKind::FailedPrecondition, "called off")),
            false => Ok(()),
        }
    }

    /// Waits, unless it is called off.
    pub fn sleep(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        let mut hooks = self.hooks();
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let waited = self.0.bell.wait_timeout(hooks, left);
            hooks = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Runs this when it is called off, or at once if it was.
    pub fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        let mut hooks = self.hooks();
        if self.is_cancelled() {
            drop(hooks);
            hook();
        } else {
            hooks.push(Box::new(hook));
        }
    }

    fn hooks(&self) -> MutexGuard<'_, Vec<Box<dyn FnOnce() + Send>>> {
        self.0.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits that are shorter than this are not told of.
const WORTH_TELLING: Duration = Duration::from_secs(1);

/// Is told why somebody waits, and how long.
type Listener = dyn Fn(Duration, &str) + Send + Sync;

/// Tells of waits before something is tried again. Several connections that break for one reason are
/// told of once.
#[derive(Clone, Default)]
pub struct Notice(Option<Arc<NoticeState>>);

struct NoticeState {
    listener: Box<Listener>,
    /// What was told, and until when it holds.
    told: Mutex<Option<(String, Instant)>>,
}

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Notice").field(&self.0.is_some()).finish()
    }
}

impl Notice {
    /// Tells this listener, from any thread: how long is waited, and why.
    pub fn new(listener: impl Fn(Duration, &str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(NoticeState {
            listener: Box::new(listener),
            told: Mutex::default(),
        })))
    }

    /// Tells that something did not work and is tried in another way, at once.
    pub fn otherwise(&self, error: &Error) {
        if let Some(state) = &self.0 {
            (state.listener)(Duration::ZERO, &error.chain().to_string());
        }
    }

    fn tell(&self, wait: Duration, error: &Error) {
        let Some(state) = self.0.as_ref().filter(|_| wait >= WORTH_TELLING) else {
            return;
        };
        let (now, cause) = (Instant::now(), error.chain().to_string());
        let mut told = state.told.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |(text, until): &(String, Instant)| *text == cause && now < *until;
        if !told.as_ref().is_some_and(known) {
            (state.listener)(wait, &cause);
            *told = Some((cause, now + wait));
        }
    }
}

/// How often and when something is tried again.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How often at most, counted from the last progress.
    pub retries: u32,
    /// The first wait, doubled each time.
    pub first: Duration,
    /// The longest wait of our own choice.
    pub longest: Duration,
    /// The longest wait that a registry may ask for.
    pub longest_asked: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            retries: 5,
            first: Duration::from_millis(500),
            longest: Duration::from_secs(20),
            longest_asked: Duration::from_secs(120),
        }
    }
}

impl Policy {
    /// For a place that others stand behind: trying the next is better than waiting.
    #[must_use]
    pub fn brief(self) -> Self {
        Self {
            retries: self.retries.min(1),
            ..self
        }
    }

    /// How long to wait before try `n` (from 0). `random` is in 0..=255: the wait is between half
    /// and all of the doubled time, so that many clients do not come back together.
    fn wait(&self, n: u32, asked: Option<Duration>, random: u8) -> Duration {
        let doubled = self
            .first
            .saturating_mul(2_u32.saturating_pow(n))
            .min(self.longest);
        let jittered = doubled / 2 + doubled / 2 * u32::from(random) / 255;
        match asked {
            Some(asked) => asked.min(self.longest_asked).max(jittered),
            None => jittered,
        }
    }
}

/// Why something did not work, and whether trying again may help.
#[derive(Debug)]
pub(super) struct Failure {
    pub error: Error,
    pub again: Again,
}

/// Whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// It would be the same.
    No,
    /// It may help.
    Yes,
    /// The registry asks to wait so long.
    After(Duration),
}

impl Failure {
    pub(super) fn last(error: Error) -> Self {
        let again = Again::No;
        Self { error, again }
    }

    pub(super) fn passing(error: Error) -> Self {
        let again = Again::Yes;
        Self { error, again }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::last(error)
    }
}

/// Counts tries and waits between them.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    policy: Policy,
    cancel: &'a Cancel,
    notice: &'a Notice,
    made: u32,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(policy: Policy, cancel: &'a Cancel, notice: &'a Notice) -> Self {
        let made = 0;
        Self {
            policy,
            cancel,
            notice,
            made,
        }
    }

    /// Something was achieved: failures before it do not count any more.
    pub(super) fn progressed(&mut self) {
        self.made = 0;
    }

    /// Waits before the next try, or returns the error when there is none.
    pub(super) fn wait(&mut self, failure: Failure) -> Result<()> {
        self.cancel.check()?;
        let asked = match failure.again {
            Again::No => return Err(failure.error),
            Again::Yes => None,
            Again::After(time) => Some(time),
        };
        if self.made >= self.policy.retries {
            return match self.made {
                0 => Err(failure.error),
                made => {
                    let tries = made + 1;
                    Err(failure
                        .error
                        .context(format!("gave up after {tries} tries")))
                }
            };
        }
        let time = self.policy.wait(self.made, asked, random());
        self.made += 1;
        tracing::debug!(error = %failure.error.chain(), wait = ?time, "trying again");
        self.notice.tell(time, &failure.error);
        self.cancel.sleep(time)
    }
}

/// Tries until it works, fails for good or was tried often enough.
pub(super) fn tried<T>(
    mut attempts: Attempts<'_>,
    mut action: impl FnMut() -> Result<T, Failure>,
) -> Result<T> {
    loop {
        attempts.cancel.check()?;
        match action() {
            Ok(value) => return Ok(value),
            Err(failure) => attempts.wait(failure)?,
        }
    }
}

fn random() -> u8 {
    let mut byte = [0_u8; 1];
    // Without randomness the wait is a little shorter.
    let _ = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty());
    byte[0]
}

/// Reads Retry-After (RFC 9110, 10.2.3): seconds or a date.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_with_jitter() {
        let policy = Policy::default();
        let seconds = |n, asked: Option<u64>, random| {
            policy
                .wait(n, asked.map(Duration::from_secs), random)
                .as_secs_f64()
        };
        assert_eq!(seconds(0, None, 255), 0.5);
        assert_eq!(seconds(0, None, 0), 0.25);
        assert_eq!(seconds(3, None, 255), 4.0);
        assert_eq!(seconds(9, None, 255), 20.0);
        assert_eq!(seconds(99, None, 0), 10.0);
        assert_eq!(seconds(0, Some(7), 0), 7.0);
        assert_eq!(seconds(0, Some(1_000_000), 0), 120.0);
        assert_eq!(seconds(0, Some(0), 255), 0.5);
    }

    #[test]
    fn retry_after_in_both_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let seconds = |text| retry_after(text, now).map(|time| time.as_secs());
        assert_eq!(seconds("3"), Some(3));
        assert_eq!(seconds(" 0 "), Some(0));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:47 GMT"), Some(10));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:27 GMT"), Some(0));
        for text in ["", "-1", "1.5", "soon", "99999999999999999999"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn tries_as_often_as_said() {
        let policy = Policy {
            first: Duration::ZERO,
            ..Policy::default()
        };
        let mut tries = 0;
        let (cancel, notice) = (Cancel::new(), Notice::default());
        let error = tried::<()>(Attempts::new(policy, &cancel, &notice), || {
            tries += 1;
            Err(Failure::passing(Error::new(
                ErrorKind::Unavailable,
                "reset",
            )))
        });
        assert_eq!(tries, 6);
        assert_eq!(
            error.unwrap_err().chain().to_string(),
            "gave up after 6 tries: reset"
        );
        let mut tries = 0;
        let error = tried::<()>(Attempts::new(policy, &cancel, &notice), || {
            tries += 1;
            Err(Error::new(ErrorKind::NotFound, "no such tag").into())
        });
        assert_eq!((tries, error.unwrap_err().kind()), (1, ErrorKind::NotFound));
    }

    #[test]
    fn long_waits_are_told_once_for_each_reason() {
        let (send, receive) = std::sync::mpsc::channel();
        let send = Mutex::new(send);
        let notice = Notice::new(move |wait, why| {
            let line = format!("{} {why}", wait.as_secs());
            send.lock().unwrap().send(line).unwrap();
        });
        let error = |text: &str| Error::new(ErrorKind::Unavailable, text.to_owned());
        notice.tell(Duration::from_millis(999), &error("short"));
        for (seconds, why) in [(60, "reset"), (60, "reset"), (30, "busy"), (9, "reset")] {
            notice.tell(Duration::from_secs(seconds), &error(why));
        }
        Notice::default().tell(Duration::from_secs(9), &error("nobody listens"));
        drop(notice);
        let told: Vec<String> = receive.iter().collect();
        assert_eq!(told, ["60 reset", "30 busy", "9 reset"]);
    }

    #[test]
    fn calling_off_wakes_sleepers_and_runs_hooks() {
        let cancel = Cancel::new();
        let (send, receive) = std::sync::mpsc::channel();
        let other = send.clone();
        cancel.on_cancel(move || send.send("hook").unwrap());
        let began = Instant::now();
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| cancel.sleep(Duration::from_secs(60)));
            cancel.cancel();
            sleeper.join().unwrap().unwrap_err();
        });
        cancel.on_cancel(move || other.send("late").unwrap());
        assert!(cancel.child().is_cancelled());
        let parent = Cancel::new();
        let (one, two) = (parent.child(), parent.child());
        one.cancel();
        assert!(!parent.is_cancelled() && !two.is_cancelled());
        parent.cancel();
        assert!(two.is_cancelled());
        assert_eq!(receive.iter().collect::<Vec<_>>(), ["hook", "late"]);
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}
