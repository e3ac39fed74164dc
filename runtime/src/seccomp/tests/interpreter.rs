//! The kernel's classic BPF machine, as far as seccomp lets programs use it.

use crate::sys::seccomp::SockFilter;

/// `struct seccomp_data`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Data {
    pub(super) nr: u32,
    pub(super) arch: u32,
    pub(super) args: [u64; 6],
    /// Byte order of the machine.
    pub(super) big: bool,
}

impl Data {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.nr,
            4 => self.arch,
            // The instruction pointer: nothing may depend on it.
            8 | 12 => 0xdead_beef,
            _ => {
                let i = (offset as usize - 16) / 8;
                let high = (offset % 8 == 4) != self.big;
                if high {
                    (self.args[i] >> 32) as u32
                } else {
                    self.args[i] as u32
                }
            }
        }
    }
}

/// Checks what the kernel checks when it loads a program (net/core/filter.c, kernel/seccomp.c).
pub(super) fn verify(program: &[SockFilter]) {
    assert!(
        !program.is_empty() && program.len() <= 4096,
        "{} instructions",
        program.len()
    );
    for (pc, i) in program.iter().enumerate() {
        let left = program.len() - pc - 1;
        match i.code {
            0x20 => assert!(i.k < 64 && i.k.is_multiple_of(4), "load of {} at {pc}", i.k),
            0x54 | 0x06 => {}
            0x05 => assert!((i.k as usize) < left, "jump out of the program at {pc}"),
            0x15 | 0x25 | 0x35 | 0x45 => {
                assert!(
                    usize::from(i.jt.max(i.jf)) < left,
                    "jump out of the program at {pc}"
                );
            }
            code => panic!("instruction {code:#x} at {pc}"),
        }
    }
    assert_eq!(
        program[program.len() - 1].code,
        0x06,
        "the last instruction returns"
    );
}

/// Runs a program; the number of steps comes with the action.
pub(super) fn run(program: &[SockFilter], data: &Data) -> (u32, usize) {
    let (mut a, mut pc, mut steps) = (0u32, 0usize, 0usize);
    loop {
        let i = program[pc];
        pc += 1;
        steps += 1;
        let branch = |taken: bool| usize::from(if taken { i.jt } else { i.jf });
        match i.code {
            0x20 => a = data.word(i.k),
            0x54 => a &= i.k,
            0x05 => pc += i.k as usize,
            0x15 => pc += branch(a == i.k),
            0x25 => pc += branch(a > i.k),
            0x35 => pc += branch(a >= i.k),
            0x45 => pc += branch(a & i.k != 0),
            0x06 => return (i.k, steps),
            code => panic!("instruction {code:#x}"),
        }
    }
}
