//! Names, and moves between namespaces that the tests make for themselves.

use std::os::fd::AsFd;
use std::process::Command;

use rustix::fs::{Mode, OFlags, open};

use super::*;
use crate::sys::netlink::lo_up;

fn device(host: &str, name: &str) -> (String, String) {
    (host.to_string(), name.to_string())
}

#[test]
fn names_are_checked() {
    for name in ["eth0", "a", "fifteen-bytes-x", "eth0.10", "é"] {
        assert!(valid_name(name), "{name:?}");
    }
    for name in [
        "",
        ".",
        "..",
        "a/b",
        "a:1",
        "a b",
        "a\tb",
        "a\n",
        "eth%d",
        "a\0",
        "sixteen-bytes-xx",
    ] {
        assert!(!valid_name(name), "{name:?}");
        let refused = validate(&[device("eth0", "x"), device(name, "y")], true, false);
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .starts_with("invalid network device name")
        );
    }
    let ok = [device("eth0", ""), device("eth1", "net1")];
    validate(&ok, true, false).unwrap();
    validate(&[], false, true).unwrap();
    for (devices, own, rootless, want) in [
        (
            &ok[..],
            false,
            false,
            "unable to move network devices without a NET namespace",
        ),
        (
            &ok[..],
            true,
            true,
            "network devices are not supported for rootless containers",
        ),
        (
            &[device("eth1", ""), device("eth0", "eth1")][..],
            true,
            false,
            "network device name \"eth1\" is used twice",
        ),
        (
            &[device("eth0", "a b")][..],
            true,
            false,
            "invalid network device name \"a b\"",
        ),
    ] {
        assert_eq!(
            validate(devices, own, rootless).unwrap_err().to_string(),
            want
        );
    }
}

fn ip(args: &str) -> String {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {args}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `test` on a thread in a network namespace of its own, which ends with it.
fn isolated(test: impl FnOnce() + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn current_netns() -> OwnedFd {
    open(
        "/proc/thread-self/ns/net",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .unwrap()
}

/// A new namespace; the calling thread stays where it is.
fn new_netns() -> OwnedFd {
    std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        current_netns()
    })
    .join()
    .unwrap()
}

fn inside<T>(netns: &OwnedFd, f: impl FnOnce() -> T) -> T {
    let own = current_netns();
    let network = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(netns.as_fd(), network).unwrap();
    let result = f();
    move_into_link_name_space(own.as_fd(), network).unwrap();
    result
}

#[test]
fn a_device_keeps_its_addresses_and_gets_its_name() {
    isolated(|| {
        ip("link add host0 type veth peer name peer0");
        ip("link set host0 mtu 1400 up");
        ip("address add 192.0.2.65/26 dev host0");
        ip("address add 198.51.100.1/32 dev host0");
        ip("address add 127.0.0.33/32 scope host dev host0");
        ip("address add 203.0.113.9/24 dev host0 valid_lft 600 preferred_lft 600");
        let ipv6 = std::path::Path::new("/proc/net/if_inet6").exists();
        if ipv6 {
            ip("address add 2001:db8::5/64 dev host0");
        }
        let target = new_netns();
        move_devices(
            &[device("host0", "net0"), device("peer0", "")],
            target.as_fd(),
        )
        .unwrap();
        assert!(!ip("link").contains("host0"), "still here");
        let (link, addresses) = inside(&target, || (ip("link show net0"), ip("address show net0")));
        assert!(link.contains("mtu 1400") && link.contains("UP"), "{link}");
        assert!(
            addresses.contains("inet 192.0.2.65/26 brd 192.0.2.127 scope global"),
            "{addresses}"
        );
        assert!(
            addresses.contains("inet 198.51.100.1/32 scope global"),
            "{addresses}"
        );
        assert_eq!(
            addresses.contains("inet6 2001:db8::5/64 scope global"),
            ipv6,
            "{addresses}"
        );
        for gone in ["127.0.0.33", "203.0.113.9"] {
            assert!(!addresses.contains(gone), "{addresses}");
        }
        assert!(inside(&target, || ip("link show peer0")).contains("UP"));
    });
}

#[test]
fn failures_name_the_device_and_the_step() {
    isolated(|| {
        let target = new_netns();
        let here = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let error = move_devices(&[device("absent0", "")], target.as_fd()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(
            error.chain().to_string(),
            "cannot move network device absent0 to the container's network namespace: find network \
             device absent0: no such device"
        );
        ip("link add host0 type veth peer name peer0");
        inside(&target, || ip("link add taken0 type veth peer name other0"));
        let error = move_devices(&[device("host0", "taken0")], target.as_fd()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists);
        assert!(
            error
                .chain()
                .to_string()
                .ends_with(": name taken0 is taken there"),
            "{error:?}"
        );
        assert!(
            ip("link").contains("host0"),
            "the device stays when the move is refused"
        );
        let error = move_devices(&[device("lo", "lo1")], target.as_fd()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(
            error.chain().to_string().contains(": move lo as lo1: "),
            "{error:?}"
        );
        assert_eq!(
            std::fs::read_link("/proc/thread-self/ns/net").unwrap(),
            here
        );
    });
}

#[test]
fn many_addresses_take_several_datagrams() {
    isolated(|| {
        ip("link add host0 type veth peer name peer0");
        let batch: String = (0..1000)
            .map(|i| {
                format!(
                    "address add 10.0.{}.{}/32 dev host0\n",
                    i / 250,
                    i % 250 + 1
                )
            })
            .collect();
        let file = std::env::temp_dir().join(format!("rcrun-netdev-{}", std::process::id()));
        std::fs::write(&file, batch).unwrap();
        ip(&format!("-batch {}", file.display()));
        std::fs::remove_file(&file).unwrap();
        let target = new_netns();
        move_devices(&[device("host0", "")], target.as_fd()).unwrap();
        let addresses = inside(&target, || ip("-o address show host0"));
        assert_eq!(
            addresses
                .lines()
                .filter(|l| l.contains("inet 10.0."))
                .count(),
            1000
        );
    });
}

#[test]
fn loopback_is_set_up() {
    isolated(|| {
        assert!(ip("link show lo").contains("state DOWN"));
        lo_up().unwrap();
        let lo = ip("link show lo");
        assert!(lo.contains("LOOPBACK,UP"), "{lo}");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    });
}
