//! What a pod's devices have moved, as the kernel tells those who are in its network namespace.

use std::path::Path;

/// Counters of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) name: String,
    /// Bytes, packets, errors, dropped.
    pub(crate) received: [u64; 4],
    /// The same.
    pub(crate) sent: [u64; 4],
}

/// All devices but loopback, by way of a process that is in the namespace.
pub(crate) fn devices(pid: i32) -> Vec<Device> {
    let path = format!("/proc/{pid}/net/dev");
    let text = std::fs::read_to_string(Path::new(&path)).unwrap_or_default();
    text.lines()
        .filter_map(device)
        .filter(|device| device.name != "lo")
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
    }
}
