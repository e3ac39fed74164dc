//! What pods' devices have moved, as the kernel tells those who are in their network namespaces.
//!
//! `/proc/thread-self/net/dev` is that of the thread's namespace (proc_pid_net(5)), so a thread enters the
//! namespaces one after the other, by the files that pin them, and ends: no thread that does anything else
//! is ever in a pod's network. A pod need not have a process for that.

use std::path::PathBuf;

use rcrun_runtime::pin;

use crate::{Result, network_thread};

/// Where the kernel tells.
const DEVICES: &str = "/proc/thread-self/net/dev";
/// Most devices of a pod that are told.
const MOST_DEVICES: usize = 64;

/// Counters of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) name: String,
    /// Bytes, packets, errors, dropped.
    pub(crate) received: [u64; 4],
    /// The same.
    pub(crate) sent: [u64; 4],
}

/// The devices of pods, but loopback, by the directories of their pinned namespaces; none of one that is gone
/// meanwhile. The answer is in the same order.
pub(crate) fn devices(directories: Vec<PathBuf>) -> Result<Vec<Vec<Device>>> {
    if directories.is_empty() {
        return Ok(Vec::new());
    }
    network_thread::run("rcrun-network", move || {
        let of = |directory: &PathBuf| within(directory).unwrap_or_default();
        Ok(directories.iter().map(of).collect())
    })
}

/// Leaves the thread in the namespace.
fn within(directory: &std::path::Path) -> Result<Vec<Device>> {
    let namespace = pin::open(directory, "net")?;
    network_thread::enter(&namespace)?;
    Ok(parse(&std::fs::read_to_string(DEVICES)?))
}

fn parse(text: &str) -> Vec<Device> {
    text.lines()
        .filter_map(device)
        .filter(|device| device.name != "lo")
        .take(MOST_DEVICES)
        .collect()
}

/// `  eth0: BYTES PACKETS ERRORS DROPPED FIFO FRAME COMPRESSED MULTICAST BYTES ...` (proc_pid_net(5)).
fn device(line: &str) -> Option<Device> {
    let (name, numbers) = line.split_once(':')?;
    let numbers: Vec<u64> = numbers
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let four = |from: usize| numbers.get(from..from + 4)?.try_into().ok();
    Some(Device {
        name: name.trim().to_owned(),
        received: four(0)?,
        sent: four(8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let line = "  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16";
        let expected = Device {
            name: "eth0".to_owned(),
            received: [1, 2, 3, 4],
            sent: [9, 10, 11, 12],
        };
        assert_eq!(device(line), Some(expected));
        for other in [
            "Inter-|   Receive",
            " face |bytes    packets",
            "eth0: 1 2 x",
            "",
        ] {
            assert_eq!(device(other), None, "{other}");
        }
        let text = format!("    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n{line}\n");
        assert_eq!(parse(&text).len(), 1);
    }

    #[test]
    fn a_pod_that_is_gone_has_no_devices() {
        let gone = PathBuf::from("/no/such/pod");
        let found = devices(vec![gone.clone(), gone]).unwrap();
        assert_eq!(found, [vec![], vec![]]);
        assert!(devices(Vec::new()).unwrap().is_empty());
    }

    #[test]
    fn a_flood_of_devices_is_cut() {
        let line = |n| format!("v{n}: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n");
        let text: String = (0..10_000).map(line).collect();
        assert_eq!(parse(&text).len(), MOST_DEVICES);
    }
}
