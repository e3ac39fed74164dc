//! Programs of other machines: whether the kernel hands them to an emulator (binfmt_misc,
//! Documentation/admin-guide/binfmt-misc.rst). Asked before a step of another platform runs, so that the
//! answer is a sentence and not a failure of the first program.

use std::os::fd::{AsRawFd, OwnedFd};

use rcrun_image::platform::Platform;
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::{Error, Result};

/// Where it is mounted, where it is.
const PLACE: &str = "/proc/sys/fs/binfmt_misc";
/// Entries of it that are no formats.
const CONTROLS: [&str; 2] = ["register", "status"];

/// Refuses a platform whose programs do not run here. Where nobody can tell, it is tried.
pub fn check(platform: &Platform) -> Result<()> {
    let machine = Platform::host();
    let native = platform.architecture == machine.architecture
        || matches!(
            (
                machine.architecture.as_str(),
                platform.architecture.as_str()
            ),
            // Kernels of these run the smaller ones too, as a rule.
            ("amd64", "386") | ("arm64", "arm")
        );
    if native {
        return Ok(());
    }
    let Some(header) = header(&platform.architecture) else {
        return Ok(());
    };
    let why = match formats() {
        Known::Nobody => return Ok(()),
        Known::Missing => "the kernel has no binfmt_misc".to_owned(),
        Known::Formats(all) if all.iter().any(|text| handles(text, &header)) => return Ok(()),
        Known::Formats(_) => format!(
            "no emulator is registered with binfmt_misc for programs of {}",
            platform.architecture
        ),
    };
    Err(Error::unsupported(format!(
        "cannot run programs of {platform} on {machine}: {why}"
    ))
    .with_hint(
        "register qemu-user-static for it (packages qemu-user-static and binfmt-support), or build on such a machine",
    ))
}

enum Known {
    /// These are registered.
    Formats(Vec<String>),
    /// There is no such thing.
    Missing,
    /// We may not look.
    Nobody,
}

fn formats() -> Known {
    if std::path::Path::new(PLACE).join(CONTROLS[0]).exists() {
        return Known::Formats(read(PLACE));
    }
    // Not mounted here, which says nothing: looked at by a mount of our own, attached nowhere. In a user
    // namespace that would be another, empty one.
    let initial = std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    if !initial {
        return Known::Nobody;
    }
    match mounted() {
        Ok(mounted) => Known::Formats(read(&format!("/proc/self/fd/{}", mounted.as_raw_fd()))),
        Err(Errno::NODEV) => Known::Missing,
        Err(_) => Known::Nobody,
    }
}

fn mounted() -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("binfmt_misc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
}

fn read(place: &str) -> Vec<String> {
    let text = |name: &str| std::fs::read_to_string(format!("{place}/{name}"));
    if text("status").is_ok_and(|status| status.trim() == "disabled") {
        return Vec::new();
    }
    let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !CONTROLS.contains(&name.as_str()))
        .filter_map(|name| text(&name).ok())
        .collect()
}

/// The beginning of a program for an architecture; none if nobody knows.
fn header(architecture: &str) -> Option<[u8; 20]> {
    // 64 bits, big-endian, machine (elf.h).
    let (wide, big, machine): (bool, bool, u16) = match architecture {
        "386" => (false, false, 3),
        "amd64" => (true, false, 62),
        "arm" => (false, false, 40),
        "arm64" => (true, false, 183),
        "loong64" => (true, false, 258),
        "mips" => (false, true, 8),
        "mipsle" => (false, false, 8),
        "mips64" => (true, true, 8),
        "mips64le" => (true, false, 8),
        "ppc64" => (true, true, 21),
        "ppc64le" => (true, false, 21),
        "riscv64" => (true, false, 243),
        "s390x" => (true, true, 22),
        _ => return None,
    };
    let mut header = [0; 20];
    header[..4].copy_from_slice(b"\x7fELF");
    (header[4], header[5], header[6]) = (1 + u8::from(wide), 1 + u8::from(big), 1);
    let bytes = |value: u16| match big {
        true => value.to_be_bytes(),
        false => value.to_le_bytes(),
    };
    header[16..18].copy_from_slice(&bytes(2));
    header[18..].copy_from_slice(&bytes(machine));
    Some(header)
}

/// Whether a registered format is enabled and takes programs that begin so.
fn handles(format: &str, header: &[u8; 20]) -> bool {
    let mut lines = format.lines();
    if lines.next() != Some("enabled") {
        return false;
    }
    let get = |name: &str| {
        let value = format.lines().find_map(|line| line.strip_prefix(name));
        value.map(str::trim)
    };
    let hex = |text: &str| -> Option<Vec<u8>> {
        let pairs = text.as_bytes().chunks(2);
        pairs
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect()
    };
    let offset: usize = get("offset ")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let Some(magic) = get("magic ")
        .and_then(hex)
        .filter(|magic| !magic.is_empty())
    else {
        return false;
    };
    let mask = get("mask ").and_then(hex);
    let mask = |index: usize| match &mask {
        Some(mask) => mask.get(index).copied().unwrap_or(0xff),
        None => 0xff,
    };
    let Some(found) = header.get(offset..) else {
        return false;
    };
    magic.iter().enumerate().all(|(index, byte)| {
        let found = found.get(index).copied().unwrap_or_default();
        (found ^ byte) & mask(index) == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel shows what qemu-user-static registers.
    const ARM64: &str = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn formats_take_programs_by_their_beginning() {
        let arm64 = header("arm64").unwrap();
        assert!(handles(ARM64, &arm64));
        for other in ["amd64", "arm", "s390x", "riscv64", "386", "ppc64le"] {
            assert!(!handles(ARM64, &header(other).unwrap()), "{other}");
        }
        assert!(!handles(&ARM64.replace("enabled", "disabled"), &arm64));
        assert!(!handles("enabled\nextension .x\n", &arm64));
        assert!(!handles("enabled\nmagic \n", &arm64));
        assert!(!handles("enabled\noffset 99\nmagic 7f\n", &arm64));
        assert!(!handles("enabled\nmagic zz\n", &arm64));
        assert_eq!(header("unheard-of"), None);
    }

    #[test]
    fn this_machine_runs_its_own() {
        check(&Platform::host()).unwrap();
    }
}
