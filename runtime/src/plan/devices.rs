//! `linux.devices`, the default devices and links of a container's /dev (runtime-spec
//! config-linux.md, "Devices" and "Default Devices"; config.md, "Dev symbolic links"). Pure.

use std::ffi::{CStr, CString};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use crate::error::{Error, Result};

use super::c_path;

/// A device node to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Absolute path in the container.
    pub path: CString,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`.
    pub kind: u32,
    /// Permission bits.
    pub mode: u32,
    /// Device number.
    pub major: u32,
    /// Device number.
    pub minor: u32,
    /// Owner in the container.
    pub uid: u32,
    /// Group in the container.
    pub gid: u32,
}

/// A symbolic link to make.
#[derive(Debug)]
pub struct Link {
    /// Absolute path in the container.
    pub path: &'static CStr,
    /// What it contains.
    pub target: &'static CStr,
}

/// Devices every container has.
pub const DEFAULT_DEVICES: [(&CStr, u32, u32); 6] = [
    (c"/dev/null", 1, 3),
    (c"/dev/zero", 1, 5),
    (c"/dev/full", 1, 7),
    (c"/dev/random", 1, 8),
    (c"/dev/urandom", 1, 9),
    (c"/dev/tty", 5, 0),
];

/// Links every container has; /dev/core only where the host has /proc/kcore.
pub const LINKS: [Link; 4] = [
    Link {
        path: c"/dev/fd",
        target: c"/proc/self/fd",
    },
    Link {
        path: c"/dev/stdin",
        target: c"/proc/self/fd/0",
    },
    Link {
        path: c"/dev/stdout",
        target: c"/proc/self/fd/1",
    },
    Link {
        path: c"/dev/stderr",
        target: c"/proc/self/fd/2",
    },
];

/// Link to the container's own pseudo-terminal multiplexer.
pub const PTMX: Link = Link {
    path: c"/dev/ptmx",
    target: c"pts/ptmx",
};
/// Link to the kernel's memory image.
pub const CORE: Link = Link {
    path: c"/dev/core",
    target: c"/proc/kcore",
};

/// The configured devices and the default ones they do not replace.
pub fn plan(configured: &[LinuxDevice]) -> Result<Vec<Device>> {
    let mut devices = configured
        .iter()
        .enumerate()
        .map(device)
        .collect::<Result<Vec<_>>>()?;
    // The container's own multiplexer takes that place ([`PTMX`]).
    devices.retain(|device| device.path.as_c_str() != PTMX.path);
    for (path, major, minor) in DEFAULT_DEVICES {
        if !devices.iter().any(|d| d.path.as_c_str() == path) {
            devices.push(Device {
                path: path.to_owned(),
                kind: libc::S_IFCHR,
                mode: 0o666,
                major,
                minor,
                uid: 0,
                gid: 0,
            });
        }
    }
    Ok(devices)
}

fn device((index, device): (usize, &LinuxDevice)) -> Result<Device> {
    let property = || format!("linux.devices[{index}] ({})", device.path().display());
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => {
            return Err(Error::invalid(format!(
                "{}: type \"a\" is for rules only",
                property()
            )));
        }
    };
    if !device.path().is_absolute() {
        return Err(Error::invalid(format!(
            "{}: path is not absolute",
            property()
        )));
    }
    let number = |n: i64, name: &str| {
        u32::try_from(n)
            .map_err(|_| Error::invalid(format!("{}: {name} {n} is out of range", property())))
    };
    let fifo = kind == libc::S_IFIFO;
    Ok(Device {
        // `/mnt/` is /mnt: components() leaves out what names nothing.
        path: c_path(&device.path().components().collect::<std::path::PathBuf>())?,
        kind,
        // fileMode may carry the file type bits; the device's type decides.
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        major: if fifo {
            0
        } else {
            number(device.major(), "major")?
        },
        minor: if fifo {
            0
        } else {
            number(device.minor(), "minor")?
        },
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(json: serde_json::Value) -> Result<Vec<Device>> {
        plan(&[serde_json::from_value(json).unwrap()])
    }

    #[test]
    fn configured_devices_replace_default_ones() {
        let devices = one(serde_json::json!(
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o100_600}))
        .unwrap();
        assert_eq!(devices.len(), DEFAULT_DEVICES.len());
        assert_eq!(devices[0].mode, 0o600);
    }

    #[test]
    fn the_hosts_multiplexer_is_never_used() {
        for path in ["/dev/ptmx", "/dev/ptmx/"] {
            let json = serde_json::json!({"path": path, "type": "c", "major": 5, "minor": 2});
            let devices = one(json).unwrap();
            assert_eq!(devices.len(), DEFAULT_DEVICES.len());
            assert!(devices.iter().all(|d| d.path.as_c_str() != PTMX.path));
        }
    }

    #[test]
    fn slashes_at_the_end_name_nothing() {
        for path in ["/mnt/", "//mnt", "/./mnt//"] {
            let json = serde_json::json!({"path": path, "type": "b", "major": 10, "minor": 229});
            assert_eq!(one(json).unwrap()[0].path.as_c_str(), c"/mnt", "{path}");
        }
    }

    #[test]
    fn bad_devices_are_refused() {
        for json in [
            serde_json::json!({"path": "dev/x", "type": "c", "major": 1, "minor": 3}),
            serde_json::json!({"path": "/dev/x", "type": "c", "major": -1, "minor": 3}),
            serde_json::json!({"path": "/dev/x", "type": "a"}),
        ] {
            assert!(one(json.clone()).is_err(), "{json}");
        }
    }

    #[test]
    fn a_fifo_needs_no_numbers() {
        let devices = one(serde_json::json!({"path": "/f", "type": "p"})).unwrap();
        assert_eq!((devices[0].kind, devices[0].major), (libc::S_IFIFO, 0));
    }
}
