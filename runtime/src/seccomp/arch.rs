//! Architectures as seccomp sees them, and their system call numbers.
//!
//! Owns the audit token, word size, byte order and calling peculiarities of each architecture of the
//! runtime specification (config-linux.md, "Seccomp"), and the look-up of names in [`super::table`].

use oci_spec::runtime::Arch;

use super::table::{Row, TABLE, X};

/// Highest plain number a table may hold, relative to [`Abi::base`], plus one.
pub(super) const PLAIN: usize = 1000;
/// Slots per architecture: the plain numbers, then ARM's private ones.
pub(super) const SLOTS: usize = PLAIN + 16;
/// First of ARM's private calls.
pub(super) const ARM_PRIVATE: u32 = 0x0f_0000;
/// Set in the number of every x32 call.
pub(super) const X32_BIT: u32 = 0x4000_0000;
/// `seccomp_data.arch` of x86-64 and of x32 alike.
pub(super) const AUDIT_X86_64: u32 = 0xc000_003e;

/// Columns of [`TABLE`].
#[cfg(test)]
const COLUMNS: [&str; 18] = [
    "x86_64",
    "x86",
    "x32",
    "aarch64",
    "arm",
    "riscv64",
    "loongarch64",
    "ppc",
    "ppc64",
    "s390",
    "s390x",
    "mips",
    "mips64",
    "mips64n32",
    "parisc",
    "parisc64",
    "m68k",
    "sh",
];

/// One calling convention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Abi {
    /// `AUDIT_ARCH_*`, as found in `seccomp_data.arch`.
    pub(super) token: u32,
    /// Column of [`TABLE`].
    pub(super) column: usize,
    /// Arguments are compared as 64-bit values; otherwise their low words only.
    pub(super) wide: bool,
    /// Big-endian.
    pub(super) big: bool,
    /// Subtracted from a number to get its slot.
    pub(super) base: u32,
    /// socketcall(2) and ipc(2) multiplex other calls.
    pub(super) mux: bool,
}

impl Abi {
    /// Whether this is x86-64's 32-bit-pointer convention.
    pub(super) fn is_x32(self) -> bool {
        self.column == 2
    }

    /// The slot of a row on this architecture.
    pub(super) fn slot(self, row: &Row) -> Option<usize> {
        match row.1[self.column] {
            X => None,
            n if n >= 0xf000 => Some(PLAIN + usize::from(n & 0xf)),
            n => Some(usize::from(n) - self.base as usize),
        }
    }

    /// The name of a slot, for messages.
    pub(super) fn name_of(self, slot: usize) -> &'static str {
        TABLE
            .iter()
            .find(|row| self.slot(row) == Some(slot))
            .map_or("?", |row| row.0)
    }

    /// Offset of an argument's low word in `struct seccomp_data`.
    pub(super) fn low(self, index: u8) -> u32 {
        16 + 8 * u32::from(index) + if self.big { 4 } else { 0 }
    }

    /// Offset of an argument's high word.
    pub(super) fn high(self, index: u8) -> u32 {
        16 + 8 * u32::from(index) + if self.big { 0 } else { 4 }
    }
}

/// The architecture this program was built for.
pub(super) const NATIVE: Arch = {
    if cfg!(target_arch = "x86_64") {
        Arch::ScmpArchX86_64
    } else if cfg!(target_arch = "x86") {
        Arch::ScmpArchX86
    } else if cfg!(target_arch = "aarch64") {
        Arch::ScmpArchAarch64
    } else if cfg!(target_arch = "arm") {
        Arch::ScmpArchArm
    } else if cfg!(target_arch = "riscv64") {
        Arch::ScmpArchRiscv64
    } else if cfg!(target_arch = "loongarch64") {
        Arch::ScmpArchLoongarch64
    } else if cfg!(all(target_arch = "powerpc64", target_endian = "little")) {
        Arch::ScmpArchPpc64le
    } else if cfg!(target_arch = "powerpc64") {
        Arch::ScmpArchPpc64
    } else if cfg!(target_arch = "s390x") {
        Arch::ScmpArchS390x
    } else {
        panic!("the native architecture's system calls are missing")
    }
};

/// What is known about an architecture of the specification.
pub(super) fn abi(arch: Arch) -> Abi {
    let native = if arch == Arch::ScmpArchNative {
        NATIVE
    } else {
        arch
    };
    let (column, wide, big, base, mux) = match native {
        Arch::ScmpArchNative | Arch::ScmpArchX86_64 => (0, true, false, 0, false),
        Arch::ScmpArchX86 => (1, false, false, 0, true),
        Arch::ScmpArchX32 => (2, false, false, 0, false),
        Arch::ScmpArchAarch64 => (3, true, false, 0, false),
        Arch::ScmpArchArm => (4, false, false, 0, false),
        Arch::ScmpArchRiscv64 => (5, true, false, 0, false),
        Arch::ScmpArchLoongarch64 => (6, true, false, 0, false),
        Arch::ScmpArchPpc => (7, false, true, 0, true),
        Arch::ScmpArchPpc64 => (8, true, true, 0, true),
        Arch::ScmpArchPpc64le => (8, true, false, 0, true),
        Arch::ScmpArchS390 => (9, false, true, 0, true),
        Arch::ScmpArchS390x => (10, true, true, 0, true),
        Arch::ScmpArchMips => (11, false, true, 4000, true),
        Arch::ScmpArchMipsel => (11, false, false, 4000, true),
        Arch::ScmpArchMips64 => (12, true, true, 5000, false),
        Arch::ScmpArchMipsel64 => (12, true, false, 5000, false),
        Arch::ScmpArchMips64n32 => (13, false, true, 6000, false),
        Arch::ScmpArchMipsel64n32 => (13, false, false, 6000, false),
        Arch::ScmpArchParisc => (14, false, true, 0, false),
        Arch::ScmpArchParisc64 => (15, true, true, 0, false),
        Arch::ScmpArchM68k => (16, false, true, 0, true),
        Arch::ScmpArchSh => (17, false, false, 0, true),
        Arch::ScmpArchSheb => (17, false, true, 0, true),
    };
    // The specification's enumeration carries libseccomp's tokens, which are the kernel's but for x32.
    let token = if native == Arch::ScmpArchX32 {
        AUDIT_X86_64
    } else {
        native as u32
    };
    Abi {
        token,
        column,
        wide,
        big,
        base,
        mux,
    }
}

const HASH_BITS: u32 = 11;

const fn hash(name: &[u8]) -> usize {
    let mut h: u32 = 0x811c_9dc5;
    let mut i = 0;
    while i < name.len() {
        h = (h ^ name[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    (h.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)) as usize
}

/// Open-addressed index into [`TABLE`], built by the compiler.
static INDEX: [u16; 1 << HASH_BITS] = {
    let mut index = [u16::MAX; 1 << HASH_BITS];
    let mut i = 0;
    while i < TABLE.len() {
        let mut at = hash(TABLE[i].0.as_bytes());
        while index[at] != u16::MAX {
            at = (at + 1) & ((1 << HASH_BITS) - 1);
        }
        index[at] = i as u16;
        i += 1;
    }
    index
};

/// The table row of a call that any architecture has.
pub(super) fn lookup(name: &str) -> Option<&'static Row> {
    let mut at = hash(name.as_bytes());
    loop {
        let row = TABLE.get(usize::from(INDEX[at]))?;
        if row.0 == name {
            return Some(row);
        }
        at = (at + 1) & ((1 << HASH_BITS) - 1);
    }
}

/// Which slot multiplexes a call on architectures that have [`Abi::mux`], and its call number there:
/// socketcall(2)'s and ipc(2)'s first argument (linux/net.h, linux/ipc.h).
pub(super) fn multiplexed(name: &str) -> Option<(usize, u64)> {
    const SOCKETCALL: usize = 102;
    const IPC: usize = 117;
    let (slot, call) = match name {
        "socket" => (SOCKETCALL, 1),
        "bind" => (SOCKETCALL, 2),
        "connect" => (SOCKETCALL, 3),
        "listen" => (SOCKETCALL, 4),
        "accept" => (SOCKETCALL, 5),
        "getsockname" => (SOCKETCALL, 6),
        "getpeername" => (SOCKETCALL, 7),
        "socketpair" => (SOCKETCALL, 8),
        "send" => (SOCKETCALL, 9),
        "recv" => (SOCKETCALL, 10),
        "sendto" => (SOCKETCALL, 11),
        "recvfrom" => (SOCKETCALL, 12),
        "shutdown" => (SOCKETCALL, 13),
        "setsockopt" => (SOCKETCALL, 14),
        "getsockopt" => (SOCKETCALL, 15),
        "sendmsg" => (SOCKETCALL, 16),
        "recvmsg" => (SOCKETCALL, 17),
        "accept4" => (SOCKETCALL, 18),
        "recvmmsg" => (SOCKETCALL, 19),
        "sendmmsg" => (SOCKETCALL, 20),
        "semop" => (IPC, 1),
        "semget" => (IPC, 2),
        "semctl" => (IPC, 3),
        "semtimedop" => (IPC, 4),
        "msgsnd" => (IPC, 11),
        "msgrcv" => (IPC, 12),
        "msgget" => (IPC, 13),
        "msgctl" => (IPC, 14),
        "shmat" => (IPC, 21),
        "shmdt" => (IPC, 22),
        "shmget" => (IPC, 23),
        "shmctl" => (IPC, 24),
        _ => return None,
    };
    Some((slot, call))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_no_other() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
        for row in &TABLE {
            assert!(std::ptr::eq(lookup(row.0).unwrap(), row), "{}", row.0);
        }
        assert_eq!(lookup("no_such_call"), None);
        assert_eq!(lookup(""), None);
    }

    #[test]
    fn numbers_fit_their_slots() {
        for arch in super::super::ARCHITECTURES {
            let abi = abi(arch.parse().unwrap());
            for row in &TABLE {
                if let Some(slot) = abi.slot(row) {
                    assert!(slot < SLOTS, "{} on {}", row.0, COLUMNS[abi.column]);
                    assert!(slot < PLAIN || abi.column == 4, "{}", row.0);
                }
            }
            let mux = ["socketcall", "ipc"].map(|n| abi.slot(lookup(n).unwrap()));
            assert_eq!(mux == [Some(102), Some(117)], abi.mux, "{arch}");
        }
    }

    #[test]
    fn numbers_agree_with_this_kernels_headers() {
        if cfg!(target_arch = "x86_64") {
            let a = abi(Arch::ScmpArchX86_64);
            for (name, nr) in [
                ("read", libc::SYS_read),
                ("clone3", libc::SYS_clone3),
                ("openat2", libc::SYS_openat2),
                ("mount_setattr", libc::SYS_mount_setattr),
                ("io_uring_enter", libc::SYS_io_uring_enter),
            ] {
                assert_eq!(a.slot(lookup(name).unwrap()), Some(nr as usize), "{name}");
            }
        }
    }
}
