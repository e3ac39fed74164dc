//! Names of containers: `names/NAME` is a link whose target is the ID, and making it is the
//! reservation. A link to nothing, or to what was never completed, is a killed process's.

use std::os::fd::{AsFd, OwnedFd};

use rcrun_overlay::durable;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rustix::fs::{AtFlags, FlockOperation};
use rustix::io::Errno;

use super::{Container, Containers, is_id, random, short};

/// The longest name: a host's name is one, too.
const LONGEST: usize = 128;
/// How many made-up names are tried before a number is added.
const ATTEMPTS: usize = 8;

/// Whether it can be a name: docker's rule, with a limit, and no ID.
pub(crate) fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && (2..=LONGEST).contains(&text.len())
        && text.bytes().all(plain)
        && !is_id(text)
}

impl Containers {
    /// Reserves a name for a container that is being made; `lasting`, also after a power cut.
    pub(crate) fn reserve(&self, name: &str, container: &Container, lasting: bool) -> Result<()> {
        if !is_name(name) {
            return Err(Error::invalid(format!(
                "invalid container name {name:?}: use 2 to {LONGEST} of letters, digits and _.-, a \
                 letter or digit first"
            )));
        }
        let names = self.lock_names()?;
        loop {
            match rustix::fs::symlinkat(container.id(), &names, name) {
                Ok(()) if lasting => return durable::sync_directory(&names),
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => self.take_over(&names, name)?,
                Err(errno) => {
                    return Err(errno).context(|| format!("cannot reserve the name {name}"));
                }
            }
        }
    }

    /// Reserves a name that nobody has.
    pub(crate) fn reserve_any(&self, container: &Container, lasting: bool) -> Result<String> {
        let mut last = None;
        for attempt in 0..2 * ATTEMPTS {
            let [a, b, c, d] = random()?;
            let [first, second] = [(a, FIRST), (b, SECOND)]
                .map(|(number, words)| words[usize::from(number) % words.len()]);
            let name = match attempt < ATTEMPTS {
                true => format!("{first}_{second}"),
                false => format!("{first}_{second}{}", u16::from_ne_bytes([c, d])),
            };
            match self.reserve(&name, container, lasting) {
                Ok(()) => return Ok(name),
                Err(error) if error.kind() == ErrorKind::Exists => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::new(ErrorKind::Exists, "all names are taken")))
    }

    /// Gives a name back, if it still stands for this ID.
    pub(super) fn release(&self, name: &str, id: &str) -> Result<()> {
        let names = self.lock_names()?;
        if self.target(name)?.as_deref() != Some(id) {
            return Ok(());
        }
        unlink(&names, name)
    }

    /// Gives back all names that stand for an ID: for what was never completed, which has no record.
    pub(super) fn release_all(&self, id: &str) -> Result<()> {
        let names = self.lock_names()?;
        for entry in rustix::fs::Dir::read_from(&names).context(|| "cannot list names")? {
            let entry = entry.context(|| "cannot list names")?;
            if let Ok(name) = entry.file_name().to_str()
                && is_name(name)
                && self.target(name)?.as_deref() == Some(id)
            {
                unlink(&names, name)?;
            }
        }
        Ok(())
    }

    /// Gives back all names that stand for nothing: whoever made or removed what they stood for was
    /// killed. How many.
    pub(super) fn release_dead(&self) -> Result<usize> {
        let names = self.lock_names()?;
        let mut released = 0;
        for entry in rustix::fs::Dir::read_from(&names).context(|| "cannot list names")? {
            let entry = entry.context(|| "cannot list names")?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            // A container's directory is made before it gets a name.
            let dead = is_name(name)
                && match self.target(name)? {
                    Some(id) => !self.exists(&id)?,
                    None => false,
                };
            if dead {
                unlink(&names, name)?;
                released += 1;
            }
        }
        Ok(released)
    }

    fn exists(&self, id: &str) -> Result<bool> {
        match self.open_id(id) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The ID that a name stands for.
    pub(super) fn named(&self, name: &str) -> Result<Option<String>> {
        match is_name(name) {
            true => self.target(name),
            false => Ok(None),
        }
    }

    fn target(&self, name: &str) -> Result<Option<String>> {
        match rustix::fs::readlinkat(&self.names, name, Vec::new()) {
            Ok(target) => Ok(target.into_string().ok().filter(|id| is_id(id))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).context(|| format!("cannot read the name {name}")),
        }
    }

    /// A name that exists: in use, or left by somebody who was killed and then removed here.
    fn take_over(&self, names: &OwnedFd, name: &str) -> Result<()> {
        let taken = |id: &str| {
            let text = format!("the name {name} is in use by container {}", short(id));
            Err(Error::new(ErrorKind::Exists, text))
        };
        let Some(id) = self.target(name)? else {
            return unlink(names, name);
        };
        match self.open_id(&id) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(other) if other.has_record() => return taken(&id),
            Ok(other) => match other.try_lock() {
                Ok(None) => return taken(&id),
                Ok(Some(lock)) => self.discard(&other, &lock)?,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            },
        }
        unlink(names, name)
    }

    /// Reserving and giving back exclude each other; the lock goes with the descriptor.
    fn lock_names(&self) -> Result<OwnedFd> {
        let names = durable::open_directory(self.names.as_fd(), ".")?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&names, FlockOperation::LockExclusive))
            .context(|| "cannot lock the names of containers")?;
        Ok(names)
    }
}

fn unlink(names: &OwnedFd, name: &str) -> Result<()> {
    match rustix::fs::unlinkat(names, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).context(|| format!("cannot give back the name {name}")),
    }
}

/// First halves of made-up names.
const FIRST: &[&str] = &[
    "able", "agile", "amber", "ample", "ashen", "azure", "bold", "brave", "brief", "bright",
    "brisk", "calm", "candid", "clear", "clever", "coral", "cosy", "crisp", "curly", "deft",
    "dusky", "eager", "early", "easy", "fair", "fleet", "fond", "frank", "fresh", "gentle", "glad",
    "golden", "grand", "green", "hardy", "hazel", "humble", "ivory", "jolly", "keen", "kind",
    "late", "light", "lively", "lucid", "lunar", "mellow", "merry", "mild", "misty", "modest",
    "neat", "nimble", "noble", "olive", "pale", "patient", "plain", "proud", "quick", "quiet",
    "rapid", "ready", "rosy", "round", "rustic", "sandy", "sharp", "shy", "silent", "silver",
    "sleek", "smart", "snowy", "sober", "solid", "steady", "still", "stout", "sunny", "swift",
    "tame", "tender", "tidy", "tranquil", "true", "vivid", "warm", "whole", "wild", "windy",
    "wise", "witty", "young", "zesty",
];

/// Second halves.
const SECOND: &[&str] = &[
    "acorn", "alder", "anchor", "ash", "badger", "barley", "basin", "bay", "beacon", "beaver",
    "beech", "birch", "bison", "breeze", "brook", "canyon", "cedar", "cliff", "cloud", "clover",
    "comet", "crane", "creek", "cricket", "dale", "delta", "dune", "eagle", "elm", "ember",
    "falcon", "fern", "field", "finch", "fjord", "flint", "forest", "fox", "glade", "grove",
    "gull", "harbor", "hare", "hawk", "heath", "heron", "hill", "island", "ivy", "jetty",
    "juniper", "kestrel", "lagoon", "lake", "larch", "lark", "lichen", "linden", "lynx", "maple",
    "marsh", "meadow", "meteor", "mole", "moor", "moss", "mountain", "newt", "oak", "orchid",
    "osprey", "otter", "owl", "pebble", "pine", "plover", "pond", "poplar", "prairie", "quail",
    "quartz", "rabbit", "raven", "reed", "ridge", "river", "robin", "rowan", "sage", "shore",
    "sparrow", "spruce", "summit", "swan", "thistle", "tundra", "valley", "willow",
];
