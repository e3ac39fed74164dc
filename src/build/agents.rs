//! SSH agents for steps: a socket of our own for each, with the mode and owner that the step asks for,
//! whose connections go to the agent's socket. The agent's own socket is never in a container.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rcrun_builder::runner::{RunStep, StepMount};
use rcrun_runtime::error::{Context, Result};

/// Connections that one step may have open at a time.
const CONNECTIONS: usize = 64;
/// Bytes that are passed on at once.
const CHUNK: usize = 16 << 10;
/// How often it is looked whether the step is over.
const PAUSE: Duration = Duration::from_millis(20);

/// Sockets that are served as long as this lives.
#[derive(Debug, Default)]
pub(super) struct Agents {
    over: Arc<AtomicBool>,
    servers: Vec<std::thread::JoinHandle<()>>,
}

impl Agents {
    /// Serves the agents of a step in its directory; the step's mounts name our sockets from here on.
    pub(super) fn serve(step: &mut RunStep, directory: &Path) -> Result<Self> {
        let mut agents = Self::default();
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
            let (agent, over): (PathBuf, _) = (path.clone(), Arc::clone(&agents.over));
            agents
                .servers
                .push(std::thread::spawn(move || accept(&listener, &agent, &over)));
            *path = own;
        }
        Ok(agents)
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
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

fn accept(listener: &UnixListener, agent: &Path, over: &Arc<AtomicBool>) {
    let open = Arc::new(AtomicUsize::new(0));
    while !over.load(Ordering::Relaxed) {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(PAUSE);
            continue;
        };
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (agent, open) = (agent.to_owned(), Arc::clone(&open));
        std::thread::spawn(move || {
            // Whoever is refused sees that the connection ends.
            let _ = connect(stream, &agent);
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn connect(client: UnixStream, agent: &Path) -> std::io::Result<()> {
    client.set_nonblocking(false)?;
    let server = UnixStream::connect(agent)?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    let there = std::thread::spawn(move || pass(&mut from, &mut to));
    let (mut from, mut to) = (server, client);
    pass(&mut from, &mut to);
    // The other half ends too: both streams are shut down.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
    let _ = there.join();
    Ok(())
}

fn pass(from: &mut UnixStream, to: &mut UnixStream) {
    let mut buffer = [0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) if to.write_all(&buffer[..count]).is_err() => break,
            Ok(_) => {}
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
