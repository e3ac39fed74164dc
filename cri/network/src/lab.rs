//! Small worlds for tests: a host, an outside and pods, each a network namespace that goes with the
//! thread that made it. The machine's own is never touched.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use crate::netlink::{Socket, inside, route};
use crate::{Context, Key, Namespace, Request, Result};

/// Long enough for a loaded machine, short enough for what must not arrive.
pub(crate) const SOON: Duration = Duration::from_millis(700);
pub(crate) const LATE: Duration = Duration::from_secs(20);

/// Runs a test on a thread with a network of its own, if this machine lets us.
pub(crate) fn world(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
                println!("skipped: no network namespace of its own: {errno}");
                return;
            }
            crate::bridge::links::loopback(here().as_fd()).unwrap();
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// The thread's network namespace.
pub(crate) fn here() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

/// A namespace for a pod.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) id: String,
}

impl Pod {
    pub(crate) fn new(id: &str) -> Self {
        let own = here();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let file = here();
        nix::sched::setns(own.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
        use std::os::fd::AsRawFd;
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into();
        let id = id.to_owned();
        Self { file, path, id }
    }

    pub(crate) fn key(&self) -> Key {
        Key::new(&self.id, "eth0").unwrap()
    }

    pub(crate) fn namespace(&self) -> Namespace<'_> {
        Namespace::new(&self.file, &self.path)
    }

    pub(crate) fn request(&self) -> Request<'_> {
        Request::new(self.key(), self.namespace())
    }

    /// Does something in it.
    pub(crate) fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        inside(self.file.as_fd(), || Ok(work())).unwrap()
    }

    /// Answers connections with the address of who called, until the pod's test ends.
    pub(crate) fn serve(&self, at: &str) -> Server {
        self.enter(|| Server::new(at.parse().unwrap()))
    }
}

/// Says to everybody from where they came.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
}

impl Server {
    /// In the namespace of the calling thread. The threads end with the process.
    pub(crate) fn new(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let datagrams = UdpSocket::bind(address).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let peer = stream.peer_addr().unwrap().ip().to_canonical();
                let _ = stream.write_all(peer.to_string().as_bytes());
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((_, peer)) = datagrams.recv_from(&mut buffer) {
                let text = peer.ip().to_canonical().to_string();
                let _ = datagrams.send_to(text.as_bytes(), peer);
            }
        });
        Self { address }
    }
}

/// Who we are to a server; none if it cannot be reached in time.
pub(crate) fn call(to: &str) -> Option<IpAddr> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&to, LATE).ok()?;
    stream.set_read_timeout(Some(LATE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.parse().ok()
}

/// The same, for who expects no answer.
pub(crate) fn silent(to: &str) -> bool {
    TcpStream::connect_timeout(&to.parse().unwrap(), SOON).is_err()
}

/// The same by UDP.
pub(crate) fn call_udp(to: &str) -> Option<IpAddr> {
    let to: SocketAddr = to.parse().unwrap();
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(LATE)).unwrap();
    socket.send_to(b"?", to).ok()?;
    let mut buffer = [0; 64];
    let (length, _) = socket.recv_from(&mut buffer).ok()?;
    std::str::from_utf8(&buffer[..length]).ok()?.parse().ok()
}

/// A second network beside the host's, as its way out: the host is 192.0.2.1 and 2001:db8::1, the
/// outside .2 and ::2, which knows no way to pods.
pub(crate) fn outside() -> Pod {
    let pod = Pod::new("outside");
    let build = || -> Result<()> {
        let own = here();
        let mut socket = Socket::routing()?;
        ip(&format!(
            "link add up0 mtu 1450 type veth peer name eth0 mtu 1450 netns {}",
            tie(&pod)
        ));
        let link = crate::bridge::tests::link("up0").context(|| "find up0")?;
        let mut batch = socket.batch();
        for (address, prefix) in [("192.0.2.1", 24), ("2001:db8::1", 64)] {
            route::add_address(&mut batch, link.index, address.parse().unwrap(), prefix);
        }
        route::set_up(&mut batch, link.index);
        for gateway in ["192.0.2.2", "2001:db8::2"] {
            route::add_default_route(&mut batch, link.index, gateway.parse().unwrap());
        }
        batch.acknowledged();
        socket.change(batch)?;
        drop(own);
        pod.enter(|| {
            ip("link set lo up");
            ip("addr add 192.0.2.2/24 dev eth0");
            ip("addr add 2001:db8::2/64 dev eth0 nodad");
            ip("link set eth0 up");
        });
        Ok(())
    };
    build().unwrap();
    pod
}

/// A process of which the `ip` program can say the pod's namespace: it knows paths of pids only.
fn tie(pod: &Pod) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), {
        use std::os::fd::AsRawFd;
        pod.file.as_raw_fd()
    })
}

/// Runs iproute2 in the thread's namespace.
pub(crate) fn ip(arguments: &str) {
    let mut command = std::process::Command::new("ip");
    let output = command.args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

/// Runs the nft program in the thread's namespace.
pub(crate) fn nft(arguments: &str) {
    let mut command = std::process::Command::new("nft");
    let output = command.args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "nft {arguments}: {output:?}");
}
