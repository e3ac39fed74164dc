//! Serves a socket until a step is over.
//!
//! What a step has written is answered or passed on, also if nothing of the step is left by then: connections that
//! wait when it ends are let in, and what they have is read, for as long as [`PATIENCE`].

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::{Agent, protocol};

/// Connections that one step may have open at a time.
const CONNECTIONS: usize = 64;
/// Bytes that are passed on at once.
const CHUNK: usize = 16 << 10;
/// How long an agent may take for what a step has left.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at that, and after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(5);

/// A socket with this mode and owner.
pub(super) fn listen(
    path: &Path,
    (mode, uid, gid): (u32, u32, u32),
) -> std::io::Result<UnixListener> {
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
pub(super) fn serve(listener: &UnixListener, agent: &Agent, over: &OwnedFd) {
    let mut open: Vec<JoinHandle<()>> = Vec::new();
    loop {
        let is_over = wait(listener, over);
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    open.retain(|one| !one.is_finished());
                    // Whoever is refused sees that the connection ends.
                    if open.len() < CONNECTIONS {
                        let agent = agent.clone();
                        open.push(std::thread::spawn(move || {
                            let _ = converse(&stream, &agent);
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

/// Answers one connection until it ends.
pub(super) fn converse(client: &UnixStream, agent: &Agent) -> std::io::Result<()> {
    client.set_nonblocking(false)?;
    let mut stream = client;
    match agent {
        Agent::Keys(keys) => {
            while let Some(message) = protocol::receive(&mut stream)? {
                protocol::send(&mut stream, &protocol::answer(&message, &keys.0))?;
            }
        }
        Agent::Socket { path, raw: true } => pass_all(client, &connected(path)?),
        Agent::Socket { path, raw: false } => {
            let server = connected(path)?;
            while let Some(message) = protocol::receive(&mut stream)? {
                let answer = match protocol::is_allowed(&message) {
                    true => answered(client, &server, &message)?,
                    false => protocol::refusal(),
                };
                protocol::send(&mut stream, &answer)?;
            }
        }
    }
    Ok(())
}

/// What an agent answers, if somebody is left to hear it.
fn answered(
    client: &UnixStream,
    mut server: &UnixStream,
    message: &[u8],
) -> std::io::Result<Vec<u8>> {
    protocol::send(&mut server, message)?;
    let mut both = [
        PollFd::from_borrowed_fd(server.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(client.as_fd(), PollFlags::empty()),
    ];
    while poll(&mut both, None) == Err(rustix::io::Errno::INTR) {}
    if both[0].revents().is_empty() {
        return Err(std::io::ErrorKind::BrokenPipe.into());
    }
    Ok(protocol::receive(&mut server)?.unwrap_or_else(protocol::refusal))
}

/// Connects to a socket, however long its path is.
fn connected(path: &Path) -> std::io::Result<UnixStream> {
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    let directory = std::fs::File::open(parent.unwrap_or(Path::new(".")))?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&directory);
    let name = path.file_name().unwrap_or_default();
    UnixStream::connect(Path::new(&format!("/proc/self/fd/{fd}")).join(name))
}

/// Passes on in both directions, until the client is gone or both have ended.
fn pass_all(client: &UnixStream, server: &UnixStream) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pass(client, server);
            gone(client);
            // Nobody is left who could read an answer.
            let _ = server.shutdown(Shutdown::Both);
        });
        pass(server, client);
        let _ = client.shutdown(Shutdown::Both);
    });
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
    use super::super::Agents;
    use super::*;
    use std::path::PathBuf;

    /// Sockets of an agent and of ours, and who serves it.
    fn served(directory: &Path, raw: bool) -> (UnixListener, PathBuf, Agents) {
        let (agent, own) = (directory.join("agent"), directory.join("own"));
        let heard = UnixListener::bind(&agent).unwrap();
        let mut agents = Agents::new().unwrap();
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        let listener = listen(&own, (0o600, uid.as_raw(), gid.as_raw())).unwrap();
        agents.add(listener, Agent::Socket { path: agent, raw });
        (heard, own, agents)
    }

    #[test]
    fn what_a_step_wrote_just_before_its_end_arrives() {
        let directory = tempfile::tempdir().unwrap();
        for round in 0..50 {
            let place = directory.path().join(round.to_string());
            std::fs::create_dir(&place).unwrap();
            let (heard, own, agents) = served(&place, true);
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
        let (heard, own, agents) = served(directory.path(), true);
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
        for raw in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let (heard, own, agents) = served(directory.path(), raw);
            let mut client = UnixStream::connect(&own).unwrap();
            // Which keys there are.
            client.write_all(&[0, 0, 0, 1, 11]).unwrap();
            let (mut silent, _) = heard.accept().unwrap();
            let mut question = [0; 5];
            silent.read_exact(&mut question).unwrap();
            assert_eq!(question, [0, 0, 0, 1, 11]);
            drop(client);
            let began = Instant::now();
            drop(agents);
            assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
            drop(silent);
        }
    }
}
