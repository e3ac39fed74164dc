//! bpf(2), as far as cgroup device programs need it: load, query, attach, detach.
//!
//! Attribute structures are the prefixes of `union bpf_attr` (include/uapi/linux/bpf.h) that each
//! command reads; the kernel takes what lies beyond the given size as zero.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_QUERY: libc::c_int = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;
const BPF_F_REPLACE: u32 = 1 << 2;

/// The kernel's limit of programs on one cgroup.
const MAX_PROGRAMS: usize = 64;

/// A file descriptor as the attributes hold it.
fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> Result<i32, Errno> {
    // SAFETY: `attributes` is a live, exclusively borrowed `repr(C)` value and its own size is what
    // is passed. Addresses inside of it are made in this file from buffers that outlive the call
    // and are as long as the attributes say.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            std::mem::size_of::<T>(),
        )
    };
    if result < 0 {
        let code = std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EINVAL);
        return Err(Errno::from_raw_os_error(code));
    }
    Ok(i32::try_from(result).unwrap_or(0))
}

fn bpf_fd<T>(command: libc::c_int, attributes: &mut T) -> Result<OwnedFd, Errno> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the two commands used here return a new descriptor (close-on-exec) that nobody else
    // owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// Loads a cgroup device program. With `log`, the verifier's words are put there.
pub fn load_device_program(
    instructions: &[u64],
    log: Option<&mut Vec<u8>>,
) -> Result<OwnedFd, Errno> {
    let mut attributes = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(instructions.len()).map_err(|_| Errno::TOOBIG)?,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache".as_ptr() as u64,
        ..Load::default()
    };
    let Some(log) = log else {
        return bpf_fd(BPF_PROG_LOAD, &mut attributes);
    };
    log.clear();
    log.resize(64 << 10, 0);
    attributes.log_level = 1;
    attributes.log_size = 64 << 10;
    attributes.log = log.as_mut_ptr() as u64;
    let result = bpf_fd(BPF_PROG_LOAD, &mut attributes);
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    log.truncate(end);
    result
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replace: u32,
}

/// Attaches a program to a cgroup, beside others or in the place of `replace`.
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut attributes = Attach {
        target: raw(cgroup),
        program: raw(program),
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
        replace: 0,
    };
    if let Some(old) = replace {
        attributes.flags |= BPF_F_REPLACE;
        attributes.replace = raw(old);
    }
    bpf(BPF_PROG_ATTACH, &mut attributes).map(drop)
}

/// Detaches a program from a cgroup.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attributes = Attach {
        target: raw(cgroup),
        program: raw(program),
        kind: BPF_CGROUP_DEVICE,
        ..Attach::default()
    };
    bpf(BPF_PROG_DETACH, &mut attributes).map(drop)
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    kind: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
    // Linux 6.17 to 7.1 write `revision` whatever the size: it must be ours.
    program_flags: u64,
    link_ids: u64,
    link_flags: u64,
    revision: u64,
}

/// Ids of the device programs attached to a cgroup.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    let mut ids = vec![0_u32; MAX_PROGRAMS];
    let mut attributes = Query {
        target: raw(cgroup),
        kind: BPF_CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: MAX_PROGRAMS as u32,
        ..Query::default()
    };
    bpf(BPF_PROG_QUERY, &mut attributes)?;
    ids.truncate(attributes.count as usize);
    Ok(ids)
}

#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// Opens a loaded program.
pub fn program_by_id(id: u32) -> Result<OwnedFd, Errno> {
    bpf_fd(
        BPF_PROG_GET_FD_BY_ID,
        &mut ById {
            id,
            ..ById::default()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_a_program_and_explains_a_bad_one() {
        // mov r0, 1; exit
        let good = [0x1_0000_00b7, 0x95];
        match load_device_program(&good, None) {
            Ok(_) => {}
            Err(errno @ (Errno::PERM | Errno::NOSYS)) => {
                println!("skipped: bpf(2): {errno}");
                return;
            }
            Err(errno) => panic!("{errno}"),
        }
        // exit without a value
        let mut log = Vec::new();
        assert!(load_device_program(&[0x95], Some(&mut log)).is_err());
        assert!(String::from_utf8_lossy(&log).contains("R0"), "{log:?}");
    }
}
