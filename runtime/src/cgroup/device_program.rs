//! Device rules on v2: an eBPF program that the kernel asks at each open and mknod of a device.
//!
//! Pure but for [`install`]. For each of the requested accesses (read, write, mknod) the last rule
//! that matches the device and names that access decides; what no rule names, the last `a` rule
//! decides, or it is denied. The program walks the rules from the last to the first and keeps the
//! undecided accesses in a register. Kernel: `BPF_PROG_TYPE_CGROUP_DEVICE`,
//! Documentation/bpf/standardization/instruction-set.rst, `struct bpf_cgroup_dev_ctx`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::device_rules::{ALL, Access, Kind, MKNOD, READ, Rule, WRITE};
use super::file;
use crate::error::{Context, Error, Result};
use crate::sys::bpf;

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const UNDECIDED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const LOAD_U32: u8 = 0x61;
const MOV_IMM: u8 = 0xb7;
const MOV32_REG: u8 = 0xbc;
const AND32_IMM: u8 = 0x54;
const RSH32_IMM: u8 = 0x74;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// One instruction: opcode, registers, offset, immediate value.
fn instruction(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> u64 {
    u64::from(code)
        | u64::from(dst) << 8
        | u64::from(src) << 12
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(immediate.cast_unsigned()) << 32
}

/// Returns `value`.
fn answer(value: bool) -> [u64; 2] {
    [
        instruction(MOV_IMM, RESULT, 0, 0, i32::from(value)),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

/// The kernel's bits for accesses.
fn kernel_bits(access: Access) -> i32 {
    [(MKNOD, 1), (READ, 2), (WRITE, 4)]
        .iter()
        .filter(|(bit, _)| access & bit != 0)
        .map(|(_, kernel)| kernel)
        .sum()
}

/// The program for rules in the order of the configuration.
pub(super) fn assemble(rules: &[Rule]) -> Vec<u64> {
    let mut program = vec![
        instruction(LOAD_U32, TYPE, CONTEXT, 0, 0),
        instruction(AND32_IMM, TYPE, 0, 0, 0xffff),
        instruction(LOAD_U32, UNDECIDED, CONTEXT, 0, 0),
        instruction(RSH32_IMM, UNDECIDED, 0, 0, 16),
        instruction(LOAD_U32, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_U32, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        if rule.kind == Kind::All {
            program.extend(answer(rule.allow));
            return program;
        }
        program.extend(block(rule));
    }
    program.extend(answer(false));
    program
}

/// One rule; each condition that does not hold jumps behind the block.
fn block(rule: &Rule) -> Vec<u64> {
    let mut conditions = vec![(TYPE, if rule.kind == Kind::Block { 1 } else { 2 })];
    // Numbers beyond 31 bits are sign-extended by the comparison and so match no device: there are
    // none with such numbers.
    conditions.extend(rule.major.map(|n| (MAJOR, n.cast_signed())));
    conditions.extend(rule.minor.map(|n| (MINOR, n.cast_signed())));
    let bits = kernel_bits(rule.access);
    let mut decision = Vec::new();
    if rule.access != ALL && rule.allow {
        decision.push(instruction(AND32_IMM, UNDECIDED, 0, 0, !bits));
        decision.push(instruction(JUMP_IF_NOT_EQUAL, UNDECIDED, 0, 2, 0));
    } else if rule.access != ALL {
        decision.push(instruction(MOV32_REG, RESULT, UNDECIDED, 0, 0));
        decision.push(instruction(AND32_IMM, RESULT, 0, 0, bits));
        decision.push(instruction(JUMP_IF_EQUAL, RESULT, 0, 2, 0));
    }
    decision.extend(answer(rule.allow));
    let total = conditions.len() + decision.len();
    let mut block = Vec::with_capacity(total);
    for (register, value) in conditions {
        let rest = (total - block.len() - 1) as i16;
        block.push(instruction(JUMP_IF_NOT_EQUAL, register, 0, rest, value));
    }
    block.extend(decision);
    block
}

/// Makes the rules the cgroup's only device program of those we may touch.
pub(super) fn install(dir: &Path, rules: &[Rule]) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let cgroup = file::open(dir, flags)
        .map_err(|errno| file::error(format!("cannot open {}", dir.display()), errno))?;
    let program = load(&assemble(rules))?;
    let old = attached(&cgroup)?;
    let failed = || format!("cannot attach the device program to {}", dir.display());
    if let [only] = old.as_slice() {
        let replaced =
            bpf::attach_device_program(cgroup.as_fd(), program.as_fd(), Some(only.as_fd()));
        match replaced {
            // Before Linux 5.6 nothing can be replaced: then both hold for a moment.
            Err(Errno::INVAL) => {}
            other => return other.context(failed),
        }
    }
    bpf::attach_device_program(cgroup.as_fd(), program.as_fd(), None).context(failed)?;
    for program in &old {
        bpf::detach_device_program(cgroup.as_fd(), program.as_fd())
            .context(|| format!("cannot detach a former device program of {}", dir.display()))?;
    }
    Ok(())
}

/// The programs on a cgroup. Those that a security module hides from us stay: they can only
/// restrict further.
fn attached(cgroup: &OwnedFd) -> Result<Vec<OwnedFd>> {
    let ids = bpf::device_programs(cgroup.as_fd()).context(|| "cannot query device programs")?;
    let mut programs = Vec::with_capacity(ids.len());
    for id in ids {
        match bpf::program_by_id(id) {
            Ok(fd) => programs.push(fd),
            Err(Errno::PERM | Errno::ACCESS | Errno::NOENT) => {}
            Err(errno) => return Err(file::error(format!("cannot open bpf program {id}"), errno)),
        }
    }
    Ok(programs)
}

fn load(program: &[u64]) -> Result<OwnedFd> {
    let errno = match bpf::load_device_program(program, None) {
        Ok(fd) => return Ok(fd),
        Err(errno) => errno,
    };
    match errno {
        Errno::NOSYS => Err(Error::unsupported(
            "cannot restrict devices: this kernel has no bpf(2), which cgroup v2 needs for it",
        )),
        // Before Linux 5.11 programs count as locked memory. What cannot be raised is no error by
        // itself.
        Errno::PERM => {
            let before = getrlimit(Resource::Memlock);
            let raised = Rlimit {
                current: None,
                maximum: None,
            };
            let soft = Rlimit {
                current: before.maximum,
                maximum: before.maximum,
            };
            let _ = setrlimit(Resource::Memlock, raised)
                .or_else(|_| setrlimit(Resource::Memlock, soft));
            let again = bpf::load_device_program(program, None);
            // The limit is the container's, too: it gets back what it was.
            let _ = setrlimit(Resource::Memlock, before);
            again.context(|| "cannot load the device program")
        }
        _ => {
            let mut log = Vec::new();
            let again = bpf::load_device_program(program, Some(&mut log));
            let log = String::from_utf8_lossy(&log);
            again.context(|| format!("cannot load the device program ({})", log.trim_end()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::device_rules::from_spec;
    use super::*;

    const BLOCK: u32 = 1;
    const CHAR: u32 = 2;

    /// Runs the program for one access, as the kernel would.
    fn run(rules: &[Rule], kind: u32, major: u32, minor: u32, access: Access) -> bool {
        let program: Vec<u8> = assemble(rules)
            .iter()
            .flat_map(|i| i.to_le_bytes())
            .collect();
        let mut context = Vec::new();
        for word in [
            kernel_bits(access).cast_unsigned() << 16 | kind,
            major,
            minor,
        ] {
            context.extend(word.to_ne_bytes());
        }
        let vm = rbpf::EbpfVmRaw::new(Some(&program)).unwrap();
        match vm.execute_program(&mut context).unwrap() {
            0 => false,
            1 => true,
            other => panic!("a device program may not return {other}"),
        }
    }

    /// The same by the words of the specification: per access, the last rule that fits decides.
    fn reference(rules: &[Rule], kind: u32, major: u32, minor: u32, access: Access) -> bool {
        [READ, WRITE, MKNOD]
            .iter()
            .filter(|bit| access & **bit != 0)
            .all(|bit| {
                let fits = |rule: &&Rule| match rule.kind {
                    Kind::All => true,
                    of => {
                        (of == Kind::Block) == (kind == BLOCK)
                            && rule.major.is_none_or(|n| n == major)
                            && rule.minor.is_none_or(|n| n == minor)
                            && rule.access & bit != 0
                    }
                };
                rules.iter().rev().find(fits).is_some_and(|rule| rule.allow)
            })
    }

    fn spec(json: &str) -> Vec<Rule> {
        from_spec(&serde_json::from_str(json).unwrap()).unwrap()
    }

    #[test]
    fn default_rules() {
        let rules = spec(r#"{"devices":[{"allow":false,"access":"rwm"}]}"#);
        for (kind, major, minor, access, want) in [
            (CHAR, 1, 3, ALL, true),
            (CHAR, 1, 1, READ, false),
            (CHAR, 1, 1, MKNOD, true),
            (CHAR, 1, 1, MKNOD | READ, false),
            (BLOCK, 8, 0, READ, false),
            (BLOCK, 8, 0, MKNOD, true),
            (CHAR, 136, 77, READ | WRITE, true),
            (BLOCK, 1, 3, READ, false),
        ] {
            assert_eq!(
                run(&rules, kind, major, minor, access),
                want,
                "{kind} {major}:{minor}"
            );
        }
    }

    #[test]
    fn later_rules_win() {
        let rules = spec(
            r#"{"devices":[{"allow":true,"access":"rwm"},
                {"allow":false,"type":"b","major":8,"access":"w"},
                {"allow":true,"type":"b","major":8,"minor":1,"access":"w"},
                {"allow":false,"type":"c","major":7,"minor":1,"access":"rwm"}]}"#,
        );
        assert!(run(&rules, BLOCK, 8, 0, READ));
        assert!(!run(&rules, BLOCK, 8, 0, READ | WRITE));
        assert!(run(&rules, BLOCK, 8, 1, READ | WRITE));
        assert!(!run(&rules, CHAR, 7, 1, READ));
        // The default rules come last and allow every mknod.
        assert!(run(&rules, CHAR, 7, 1, MKNOD));
        assert!(run(&rules, CHAR, 99, 99, ALL));
    }

    #[test]
    fn access_may_be_spread_over_rules() {
        let rules = spec(
            r#"{"devices":[{"allow":true,"type":"c","major":9,"minor":9,"access":"r"},
                {"allow":true,"type":"c","major":9,"minor":9,"access":"w"}]}"#,
        );
        assert!(run(&rules, CHAR, 9, 9, ALL));
    }

    #[test]
    fn all_small_rule_sets_match_the_specification() {
        // A fixed pseudo-random walk over rule sets, compared for every device and access.
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = |n: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % n
        };
        for _ in 0..400 {
            let rules: Vec<Rule> = (0..next(6))
                .map(|_| Rule {
                    allow: next(2) == 0,
                    kind: [Kind::All, Kind::Block, Kind::Char, Kind::Char][next(4) as usize],
                    major: [None, Some(0), Some(1)][next(3) as usize],
                    minor: [None, Some(0), Some(1)][next(3) as usize],
                    access: next(7) as u8 + 1,
                })
                .collect();
            for kind in [BLOCK, CHAR] {
                for (major, minor) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)] {
                    for access in 1..=ALL {
                        assert_eq!(
                            run(&rules, kind, major, minor, access),
                            reference(&rules, kind, major, minor, access),
                            "{rules:?}: {kind} {major}:{minor} {access}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_verifier_accepts_the_programs() {
        match bpf::load_device_program(&assemble(&[]), None) {
            Ok(_) => {}
            Err(errno) => {
                println!("skipped: bpf(2): {errno}");
                return;
            }
        }
        let json = r#"{"devices":[{"allow":true,"access":"rwm"},
            {"allow":false,"type":"b","major":8,"access":"w"},
            {"allow":true,"type":"c","major":4294967295,"minor":1,"access":"rm"}]}"#;
        load(&assemble(&spec(json))).unwrap();
    }
}
