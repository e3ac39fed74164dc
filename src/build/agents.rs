//! SSH agents for steps: a socket of our own for each, with the mode and owner that the step asks for,
//! whose connections go to the agent's socket. The agent's own socket is never in a container.
//!
//! What a step has written goes to the agent, also if nothing of the step is left by then: connections that
//! wait when it ends are let in, and what they have is passed on, for as long as [`PATIENCE`].

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rcrun_builder::runner::{RunStep, StepMount};
use rcrun_runtime::error::{Context, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

/// Connections that one step may have open at a time.
const CONNECTIONS: usize = 64;
/// Bytes that are passed on at once.
const CHUNK: usize = 16 << 10;
/// How long an agent may take for what a step has left.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at that, and after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(5);

/// Sockets that are served as long as this lives.
#[derive(Debug)]
pub(super) struct Agents {
    /// Readable when the step is over.
    over: Arc<OwnedFd>,
    servers: Vec<JoinHandle<()>>,
}

impl Agents {
    /// Serves the agents of a step in its directory; the step's mounts name our sockets from here on.
    pub(super) fn serve(step: &mut RunStep, directory: &Path) -> Result<Self> {
        let over = eventfd(0, EventfdFlags::CLOEXEC).context(|| "cannot make an eventfd")?;
        let mut agents = Self {
            over: Arc::new(over),
            servers: Vec::new(),
        };
        for (index, mount) in step.mounts.iter_mut().enumerate() {
            let StepMount::Socket {
                path, attributes, ..
            } = mount
            else {
                continue;
            };
            let own = directory.join(format!("agent-{index}"));
            let failed = || format!("cannot serve the SSH agent {}", path.display());
            let listener = listen(&own, *attributes).context(failed)?;
            agents.add(listener, path.clone());
            *path = own;
        }
        Ok(agents)
    }

    fn add(&mut self, listener: UnixListener, agent: PathBuf) {
        let over = Arc::clone(&self.over);
        self.servers
            .push(std::thread::spawn(move || serve(&listener, &agent, &over)));
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

fn listen(path: &Path, (mode, uid, gid): (u32, u32, u32)) -> std::io::Result<UnixListener> {
    // By a descriptor of the directory, so that its length does not matter.
    let directory = std::fs::File::open(path.parent().unwrap_or(Path::new("/")))?;
    let name = path.file_name().unwrap_or_default();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&directory);
    let listener = UnixListener::bind(Path::new(&format!("/proc/self/fd/{fd}")).join(name))?;
    listener.set_nonblocking(true)?;
    std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode & 0o777))?;
    Ok(listener)
}

/// Accepts until the step is over, and then those who wait.
fn serve(listener: &UnixListener, agent: &Path, over: &OwnedFd) {
    let mut open: Vec<JoinHandle<()>> = Vec::new();
    loop {
        let is_over = wait(listener, over);
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    open.retain(|one| !one.is_finished());
                    // Whoever is refused sees that the connection ends.
                    if open.len() < CONNECTIONS {
                        let agent = agent.to_owned();
                        open.push(std::thread::spawn(move || {
                            let _ = connect(&stream, &agent);
                            let _ = stream.shutdown(Shutdown::Both);
                        }));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                // Out of descriptors: some will be free.
                Err(_) => {
                    std::thread::sleep(PAUSE);
                    break;
                }
            }
        }
        if is_over {
            break;
        }
    }
    // Nobody of the step is left, so all clients have ended. Whoever waits for an agent longer is left alone.
    let end = Instant::now() + PATIENCE;
    while open.iter().any(|one| !one.is_finished()) && Instant::now() < end {
        std::thread::sleep(PAUSE);
    }
}

/// Until somebody comes or the step is over; whether it is.
fn wait(listener: &UnixListener, over: &OwnedFd) -> bool {
    let mut both = [
        PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(over.as_fd(), PollFlags::IN),
    ];
    // Interrupted, it is looked anew.
    let _ = poll(&mut both, None);
    !both[1].revents().is_empty()
}

/// Passes on in both directions, until the client is gone or both have ended.
fn connect(client: &UnixStream, agent: &Path) -> std::io::Result<()> {
    client.set_nonblocking(false)?;
    let server = UnixStream::connect(agent)?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pass(client, &server);
            gone(client);
            // Nobody is left who could read an answer.
            let _ = server.shutdown(Shutdown::Both);
        });
        pass(&server, client);
        let _ = client.shutdown(Shutdown::Both);
    });
    Ok(())
}

/// Waits until a client has closed both directions, or we have.
fn gone(client: &UnixStream) {
    let mut one = [PollFd::from_borrowed_fd(client.as_fd(), PollFlags::empty())];
    while poll(&mut one, None) == Err(rustix::io::Errno::INTR) {}
}

fn pass(mut from: &UnixStream, mut to: &UnixStream) {
    let mut buffer = [0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
            Ok(count) if to.write_all(&buffer[..count]).is_err() => break,
            Ok(_) => {}
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sockets of an agent and of ours, and who serves it.
    fn served(directory: &Path) -> (UnixListener, PathBuf, Agents) {
        let (agent, own) = (directory.join("agent"), directory.join("own"));
        let heard = UnixListener::bind(&agent).unwrap();
        let mut agents = Agents {
            over: Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap()),
            servers: Vec::new(),
        };
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        let listener = listen(&own, (0o600, uid.as_raw(), gid.as_raw())).unwrap();
        agents.add(listener, agent);
        (heard, own, agents)
    }

    #[test]
    fn what_a_step_wrote_just_before_its_end_arrives() {
        let directory = tempfile::tempdir().unwrap();
        for round in 0..50 {
            let place = directory.path().join(round.to_string());
            std::fs::create_dir(&place).unwrap();
            let (heard, own, agents) = served(&place);
            let mut client = UnixStream::connect(&own).unwrap();
            let text = vec![b'x'; 60_000];
            client.write_all(&text).unwrap();
            drop(client);
            drop(agents);
            let mut arrived = Vec::new();
            heard.accept().unwrap().0.read_to_end(&mut arrived).unwrap();
            assert!(arrived == text, "{} bytes", arrived.len());
        }
    }

    #[test]
    fn who_only_stops_writing_is_answered() {
        let directory = tempfile::tempdir().unwrap();
        let (heard, own, agents) = served(directory.path());
        let agent = std::thread::spawn(move || {
            let (mut stream, _) = heard.accept().unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            stream.write_all(text.to_uppercase().as_bytes()).unwrap();
        });
        let mut client = UnixStream::connect(&own).unwrap();
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "QUESTION");
        agent.join().unwrap();
        drop(agents);
    }

    #[test]
    fn an_agent_that_never_answers_keeps_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let (heard, own, agents) = served(directory.path());
        let mut client = UnixStream::connect(&own).unwrap();
        client.write_all(b"question").unwrap();
        let (silent, _) = heard.accept().unwrap();
        drop(client);
        let began = Instant::now();
        drop(agents);
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        drop(silent);
    }
}
