//! SSH agents for steps: a socket of our own for each, with the mode and owner that the step asks for.
//! Behind it is the agent of whoever builds, asked for nothing but keys and signatures ([`protocol`]), or
//! keys that were given as files ([`keys`]). The agent's own socket is never in a container.

mod keys;
mod number;
mod protocol;
mod serve;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use rcrun_builder::runner::{RunStep, StepMount};
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rustix::event::{EventfdFlags, eventfd};

use self::keys::Key;
use super::arguments::{home, truth};

/// The longest path of a socket.
const SOCKET: usize = 107;

/// What an agent is called without a name; it is also the one that git asks.
pub(super) const DEFAULT: &str = "default";

/// What answers steps.
#[derive(Debug, Clone)]
pub(crate) enum Agent {
    /// The socket of an agent; with `raw`, of any program, to which everything is passed on.
    Socket {
        /// Where it is.
        path: PathBuf,
        /// Nothing is read that goes there.
        raw: bool,
    },
    /// Keys of files.
    Keys(Arc<Keys>),
}

/// Keys of files.
#[derive(Debug)]
pub(crate) struct Keys(Vec<Key>);

/// All agents, by the path that stands for them in [`RunStep`].
pub(crate) type Known = BTreeMap<PathBuf, Agent>;

/// `--ssh ID[=SOCKET|KEY,...][,raw=true]`: the identifier, and what answers.
pub(super) fn asked(text: &str) -> Result<(String, Agent)> {
    let (id, value) = match text.split_once('=') {
        Some((id, value)) => (id, Some(value)),
        None => (text, None),
    };
    let (mut raw, mut paths) = (false, Vec::new());
    for part in value.into_iter().flat_map(|value| value.split(',')) {
        match part.split_once('=') {
            Some(("raw", value)) => raw = truth("raw", Some(value))?,
            _ => paths.push(home(part)),
        }
    }
    if paths.is_empty() {
        let missing = || {
            let text = "no SSH agent: SSH_AUTH_SOCK is not set";
            Error::new(ErrorKind::NotFound, text).with_hint(
                "start one with `eval $(ssh-agent)` and `ssh-add`, or give --ssh ID=SOCKET or ID=KEY",
            )
        };
        let own = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
        paths.push(own.map(PathBuf::from).ok_or_else(missing)?);
    }
    let mut found: Vec<Key> = Vec::new();
    for path in &paths {
        let context = || format!("cannot use {}", path.display());
        let kind = std::fs::metadata(path).context(context)?.file_type();
        if kind.is_socket() && paths.len() == 1 {
            let path = path.clone();
            return Ok((named(id), Agent::Socket { path, raw }));
        }
        if kind.is_socket() {
            let text = "it is a socket: an agent stands alone, without others and without keys";
            return Err(Error::invalid(text)).context(context);
        }
        if raw {
            return Err(Error::invalid("raw=true is for a socket")).context(context);
        }
        let text = contents(path).context(context)?;
        found.extend(keys::read(&text, path).context(context)?);
    }
    Ok((named(id), Agent::Keys(Arc::new(Keys(found)))))
}

fn named(id: &str) -> String {
    match id {
        "" => DEFAULT.to_owned(),
        id => id.to_owned(),
    }
}

fn contents(path: &Path) -> Result<Vec<u8>> {
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Error::invalid("it is neither a socket nor a file"));
    }
    let mut text = Vec::new();
    file.take(keys::FILE + 1).read_to_end(&mut text)?;
    match text.len() as u64 > keys::FILE {
        true => Err(Error::invalid("it is too long for a private key")),
        false => Ok(text),
    }
}

/// Sockets that are served as long as this lives.
#[derive(Debug)]
pub(super) struct Agents {
    /// Readable when the step is over.
    over: Arc<OwnedFd>,
    servers: Vec<JoinHandle<()>>,
    /// By which others find a socket whose path is too long.
    _directory: Option<std::fs::File>,
}

impl Agents {
    /// None yet.
    pub(super) fn new() -> Result<Self> {
        let over = eventfd(0, EventfdFlags::CLOEXEC).context(|| "cannot make an eventfd")?;
        Ok(Self {
            over: Arc::new(over),
            servers: Vec::new(),
            _directory: None,
        })
    }

    /// Serves the agents of a step in its directory; the step's mounts name our sockets from here on.
    pub(super) fn serve(step: &mut RunStep, directory: &Path, known: &Known) -> Result<Self> {
        let mut agents = Self::new()?;
        for (index, mount) in step.mounts.iter_mut().enumerate() {
            let StepMount::Socket {
                path, attributes, ..
            } = mount
            else {
                continue;
            };
            let own = directory.join(format!("agent-{index}"));
            let failed = || format!("cannot serve the SSH agent {}", path.display());
            let unknown = || Error::new(ErrorKind::Internal, "nobody knows it").context(failed());
            let agent = known.get(path).cloned().ok_or_else(unknown)?;
            agents.add(serve::listen(&own, *attributes).context(failed)?, agent);
            *path = own;
        }
        Ok(agents)
    }

    /// Serves one for git, which runs on the host, at a socket in this directory; and the path of that.
    pub(super) fn of_git(agent: &Agent, directory: &Path) -> Result<(Self, Option<PathBuf>)> {
        let own = directory.join("agent");
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let attributes = (0o600, uid.as_raw(), gid.as_raw());
        let listener = serve::listen(&own, attributes);
        let listener = listener.context(|| "cannot serve an SSH agent for git")?;
        let mut agents = Self::new()?;
        agents.add(listener, agent.clone());
        if own.as_os_str().len() <= SOCKET {
            return Ok((agents, Some(own)));
        }
        let context = || format!("cannot open {}", directory.display());
        let opened = std::fs::File::open(directory).context(context)?;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&opened);
        let short = format!("/proc/{}/fd/{fd}/agent", std::process::id());
        agents._directory = Some(opened);
        Ok((agents, Some(short.into())))
    }

    fn add(&mut self, listener: UnixListener, agent: Agent) {
        let over = Arc::clone(&self.over);
        let serve = move || serve::serve(&listener, &agent, &over);
        self.servers.push(std::thread::spawn(serve));
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        // An eventfd that counts to one is always written.
        let _ = rustix::io::write(&self.over, &1_u64.to_ne_bytes());
        for server in self.servers.drain(..) {
            // It only ends.
            let _ = server.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_answers() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let (socket, file) = (socket.display(), directory.path().join("file"));
        std::fs::write(&file, "no key").unwrap();
        let file = file.display();
        let of = |text: String| asked(&text);
        let (id, agent) = of(format!("={socket}")).unwrap();
        assert_eq!(id, "default");
        assert!(matches!(agent, Agent::Socket { raw: false, .. }));
        let (id, agent) = of(format!("x={socket},raw=true")).unwrap();
        assert_eq!(id, "x");
        assert!(matches!(agent, Agent::Socket { raw: true, .. }));
        for (text, says) in [
            (format!("x={socket},{socket}"), "stands alone"),
            (format!("x={file},raw=true"), "for a socket"),
            (format!("x={file}"), "neither a socket nor a private key"),
            (format!("x={}", directory.path().display()), "nor a file"),
            ("x=/no/such".to_owned(), "/no/such"),
            (format!("x={socket},raw=perhaps"), "perhaps"),
        ] {
            let error = of(text).unwrap_err().chain().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    /// An agent of whoever builds sees nothing but questions for keys and signatures, also behind a path
    /// that is too long for a socket.
    #[test]
    fn e12_the_agent_of_the_user_is_not_changed() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("d".repeat(120));
        std::fs::create_dir(&long).unwrap();
        let place = std::fs::File::open(&long).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&place);
        let listener = UnixListener::bind(format!("/proc/self/fd/{fd}/agent")).unwrap();
        let (sender, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while let Ok(Some(message)) = protocol::receive(&mut stream) {
                sender.send(message[0]).unwrap();
                protocol::send(&mut stream, &[12, 0, 0, 0, 0]).unwrap();
            }
        });
        let agent = Agent::Socket {
            path: long.join("agent"),
            raw: false,
        };
        let (mut step, ours) = UnixStream::pair().unwrap();
        let served = std::thread::spawn(move || serve::converse(&ours, &agent));
        // Remove all, add, lock, an extension; then what is allowed.
        for kind in [19, 17, 22, 27, 11] {
            protocol::send(&mut step, &[kind]).unwrap();
            let answer = protocol::receive(&mut step).unwrap().unwrap();
            let expected: &[u8] = if kind == 11 { &[12, 0, 0, 0, 0] } else { &[5] };
            assert_eq!(answer, expected, "{kind}");
        }
        // Whoever sends garbage is not listened to any more.
        step.write_all(&[0xff; 8]).unwrap();
        served.join().unwrap().unwrap_err();
        assert_eq!(heard.iter().collect::<Vec<_>>(), [11]);
    }

    /// A program that is started finds the agent wherever the store is.
    #[test]
    fn git_finds_it_behind_a_long_path() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["short".to_owned(), "d".repeat(150)] {
            let place = directory.path().join(name);
            std::fs::create_dir(&place).unwrap();
            let agent = Agent::Keys(Arc::new(Keys(Vec::new())));
            let (_agents, path) = Agents::of_git(&agent, &place).unwrap();
            let mut stream = UnixStream::connect(path.unwrap()).unwrap();
            protocol::send(&mut stream, &[11]).unwrap();
            let answer = protocol::receive(&mut stream).unwrap();
            assert_eq!(answer.unwrap(), [12, 0, 0, 0, 0]);
        }
    }
}
