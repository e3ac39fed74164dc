//! Random profiles and calls, judged by a direct reading of the specification.
//!
//! The judge looks at the profile alone, rule by rule and in 64-bit arithmetic; it shares the number
//! tables with the compiler and nothing else.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSeccompOperator};
use serde_json::{Value, json};

use super::super::arch::X32_BIT;
use super::super::table::{TABLE, X};
use super::interpreter::{Data, run, verify};
use super::{compile, default_profile, profile};

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Name in profiles, audit token, column, word size, number of the first call, socketcall and ipc.
type Arch = (&'static str, u32, usize, u32, u32, Option<(u32, u32)>);

static ARCHES: [Arch; 12] = [
    ("SCMP_ARCH_X86_64", 0xc000_003e, 0, 64, 0, None),
    ("SCMP_ARCH_X86", 0x4000_0003, 1, 32, 0, Some((102, 117))),
    ("SCMP_ARCH_X32", 0xc000_003e, 2, 32, X32_BIT, None),
    ("SCMP_ARCH_AARCH64", 0xc000_00b7, 3, 64, 0, None),
    ("SCMP_ARCH_ARM", 0x4000_0028, 4, 32, 0, None),
    ("SCMP_ARCH_RISCV64", 0xc000_00f3, 5, 64, 0, None),
    ("SCMP_ARCH_PPC64LE", 0xc000_0015, 8, 64, 0, Some((102, 117))),
    ("SCMP_ARCH_S390X", 0x8000_0016, 10, 64, 0, Some((102, 117))),
    ("SCMP_ARCH_MIPS", 0x0000_0008, 11, 32, 0, Some((4102, 4117))),
    ("SCMP_ARCH_MIPSEL64", 0xc000_0008, 12, 64, 0, None),
    ("SCMP_ARCH_PARISC64", 0x8000_000f, 15, 64, 0, None),
    ("SCMP_ARCH_SHEB", 0x0000_002a, 17, 32, 0, Some((102, 117))),
];

const CALLS: [&str; 16] = [
    "read",
    "write",
    "open",
    "socket",
    "bind",
    "accept4",
    "semop",
    "shmctl",
    "clone",
    "mmap2",
    "personality",
    "getpid",
    "socketcall",
    "set_tls",
    "openat2",
    "arch_prctl",
];

const VALUES: [u64; 12] = [
    0,
    1,
    2,
    5,
    0xff,
    0x2_0000,
    0x7e02_0000,
    0xffff_ffff,
    1 << 32,
    0x1_0000_0005,
    0x2_0000_0001,
    u64::MAX,
];

const ACTIONS: [(&str, u32); 7] = [
    ("SCMP_ACT_ALLOW", 0x7fff_0000),
    ("SCMP_ACT_ERRNO", 0x0005_0001),
    ("SCMP_ACT_TRAP", 0x0003_0000),
    ("SCMP_ACT_LOG", 0x7ffc_0000),
    ("SCMP_ACT_KILL", 0),
    ("SCMP_ACT_KILL_PROCESS", 0x8000_0000),
    ("SCMP_ACT_TRACE", 0x7ff0_0001),
];

fn number(name: &str, arch: &Arch) -> Option<u32> {
    let row = TABLE.iter().find(|row| row.0 == name)?;
    match row.1[arch.2] {
        X => None,
        n @ 0xf000.. => Some(0xf_0000 + u32::from(n - 0xf000)),
        n => Some(arch.4 + u32::from(n)),
    }
}

fn action(name: &str, errno: Option<u32>) -> u32 {
    let base = ACTIONS.iter().find(|a| a.0 == name).unwrap().1;
    errno.map_or(base, |errno| (base & 0xffff_0000) | errno)
}

fn holds(arg: &LinuxSeccompArg, bits: u32, args: &[u64; 6]) -> bool {
    use LinuxSeccompOperator as O;
    let cut = |v: u64| if bits == 32 { v & 0xffff_ffff } else { v };
    let (a, v) = (cut(args[arg.index()]), cut(arg.value()));
    match arg.op() {
        O::ScmpCmpNe => a != v,
        O::ScmpCmpLt => a < v,
        O::ScmpCmpLe => a <= v,
        O::ScmpCmpEq => a == v,
        O::ScmpCmpGe => a >= v,
        O::ScmpCmpGt => a > v,
        O::ScmpCmpMaskedEq => a & v == cut(arg.value_two().unwrap_or(0)) & v,
    }
}

/// The architecture whose rules apply, among those that are listed.
fn arch_of(p: &LinuxSeccomp, data: &Data) -> Option<&'static Arch> {
    let listed = p.architectures().as_deref().unwrap_or(&[]);
    let listed: Vec<String> = listed.iter().map(ToString::to_string).collect();
    let x32 = listed.iter().any(|l| l == "SCMP_ARCH_X32");
    let marked = data.nr & X32_BIT != 0 && (data.nr != u32::MAX || x32);
    ARCHES.iter().find(|a| {
        a.1 == data.arch
            && (a.1 != 0xc000_003e || (a.0 == "SCMP_ARCH_X32") == marked)
            && (a.0 == "SCMP_ARCH_X86_64" || listed.iter().any(|l| l == a.0))
    })
}

/// The actions a call may meet: one, or several where rules overlap.
fn judge(p: &LinuxSeccomp, data: &Data) -> Vec<u32> {
    let Some(arch) = arch_of(p, data) else {
        return vec![0];
    };
    let default = action(&p.default_action().to_string(), p.default_errno_ret());
    let (mut newest, mut unconditional, mut matching) = (0, None, Vec::new());
    // ARM's own calls have numbers far above; they exist where the profile names one.
    let mut private = false;
    for rule in p.syscalls().iter().flatten() {
        let act = action(&rule.action().to_string(), rule.errno_ret());
        let args = rule.args().as_deref().unwrap_or(&[]);
        let repeats = (0..6).any(|i| args.iter().filter(|a| a.index() == i).count() > 1);
        for name in rule.names() {
            let mux = match (name.as_str(), arch.5) {
                ("socket", Some(m)) => Some((m.0, 1)),
                ("bind", Some(m)) => Some((m.0, 2)),
                ("accept4", Some(m)) => Some((m.0, 18)),
                ("semop", Some(m)) => Some((m.1, 1)),
                ("shmctl", Some(m)) => Some((m.1, 24)),
                _ => None,
            };
            let nr = number(name, arch);
            for n in nr
                .into_iter()
                .chain(mux.map(|m| m.0))
                .filter(|n| n & 0xf_0000 == 0)
            {
                newest = newest.max(n);
            }
            if act == default {
                continue;
            }
            let through = mux.filter(|m| m.0 == data.nr && data.args[0] & low_mask(arch) == m.1);
            private |= arch.2 == 4 && nr.is_some_and(|n| n >= 0xf_0000);
            if nr != Some(data.nr) && through.is_none() {
                continue;
            }
            let check = |a: &LinuxSeccompArg| {
                (through.is_some() && a.index() == 0) || holds(a, arch.3, &data.args)
            };
            let always = |a: &&LinuxSeccompArg| {
                let cut = if arch.3 == 32 { 0xffff_ffff } else { u64::MAX };
                a.op() == LinuxSeccompOperator::ScmpCmpMaskedEq && a.value() & cut == 0
            };
            let free = if repeats {
                args.iter().any(|a| always(&a))
            } else {
                args.iter().all(|a| always(&a))
            };
            if free && through.is_none() {
                unconditional.get_or_insert(act);
            }
            if if repeats {
                args.iter().any(check)
            } else {
                args.iter().all(check)
            } {
                matching.push(act);
            }
        }
    }
    let strict = !matches!(
        default & 0xffff_0000,
        0x7fff_0000 | 0x7ffc_0000 | 0x7ff0_0000
    );
    let call = data.nr;
    let missing =
        strict && newest > 0 && call > newest && !(private && (0xf_0000..0xf_0010).contains(&call));
    match unconditional {
        Some(act) => vec![act],
        None if !matching.is_empty() => matching,
        // A tracer's skipped call is no newer call, unless x32 makes it one.
        None if missing && (arch.0 != "SCMP_ARCH_X86_64" || call != u32::MAX) => vec![0x0005_0026],
        None if strict && newest > 0 && arch.0 == "SCMP_ARCH_S390X" && data.nr == 0 => {
            vec![0x0005_0026]
        }
        None => vec![default],
    }
}

fn low_mask(arch: &Arch) -> u64 {
    if arch.3 == 32 { 0xffff_ffff } else { u64::MAX }
}

/// A call, likely one of `calls` on one of `arches`.
fn random_call(r: &mut Random, calls: &[&str], arches: &[&str]) -> Data {
    let mut arch = *r.pick(&ARCHES);
    while r.below(8) != 0 && !arches.contains(&arch.0) {
        arch = *r.pick(&ARCHES);
    }
    let nr = match r.below(12) {
        0 => r.below(600) as u32,
        1 => arch.4 + r.below(480) as u32,
        2 => *r.pick(&[
            u32::MAX,
            X32_BIT,
            0xf_0005,
            0xf_0010,
            1000,
            102,
            117,
            4102,
            4117,
        ]),
        _ => number(calls[r.below(calls.len())], &arch).unwrap_or(0),
    };
    let mut args = [0; 6];
    for a in &mut args {
        let v = if r.below(3) == 0 {
            r.below(26) as u64
        } else {
            *r.pick(&VALUES)
        };
        *a = match r.below(5) {
            0 => v.wrapping_add(1),
            1 => v.wrapping_sub(1),
            _ => v,
        };
    }
    Data {
        nr,
        arch: arch.1,
        args,
        big: big_endian(arch.1),
    }
}

fn big_endian(token: u32) -> bool {
    matches!(token, 0x8000_0016 | 0x8 | 0x8000_000f | 0x2a)
}

fn random_rule(r: &mut Random, calls: &[&str]) -> Value {
    let ops = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
    let conds = r.below(4);
    let args: Vec<Value> = (0..conds)
        .map(|_| {
            let few = r.below(3) != 0;
            json!({"index": r.below(if few { 2 } else { 6 }), "value": r.pick(&VALUES),
                "valueTwo": r.pick(&VALUES), "op": format!("SCMP_CMP_{}", r.pick(&ops))})
        })
        .collect();
    json!({"names": [r.pick(calls), r.pick(calls)], "action": r.pick(&ACTIONS).0, "args": args})
}

#[test]
fn random_profiles_mean_what_they_say() {
    let mut r = Random(0x9e37_79b9_7f4a_7c15);
    let (mut compiled, mut refused, mut decided) = (0, 0, [0; 3]);
    for _ in 0..400 {
        let arches: Vec<&str> = ARCHES
            .iter()
            .filter(|_| r.below(3) == 0)
            .map(|a| a.0)
            .collect();
        let count = r.below(5) + 1;
        let calls: Vec<&str> = (0..count).map(|_| *r.pick(&CALLS)).collect();
        let rules: Vec<Value> = (0..r.below(14) + 1)
            .map(|_| random_rule(&mut r, &calls))
            .collect();
        let p = profile(
            json!({"defaultAction": r.pick(&ACTIONS).0, "architectures": arches,
            "syscalls": rules}),
        );
        let Ok(Some(filter)) = compile(&p) else {
            refused += 1;
            continue;
        };
        compiled += 1;
        verify(&filter.program);
        for _ in 0..100 {
            let data = random_call(&mut r, &calls, &arches);
            let (got, _) = run(&filter.program, &data);
            let want = judge(&p, &data);
            assert!(
                want.contains(&got),
                "{got:#x}, not {want:x?}: {data:x?}\n{p:#?}"
            );
            decided[want.len().min(3) - 1] += 1;
        }
    }
    // Contradictory rules are the only reason to refuse such a profile.
    assert!(
        compiled > 250 && refused < 150,
        "{compiled} compiled, {refused} refused"
    );
    assert!(decided.iter().all(|n| *n > 150), "{decided:?}");
}

#[test]
fn the_default_profile_means_what_it_says() {
    let p = default_profile();
    let filter = compile(&p).unwrap().unwrap();
    let mut r = Random(42);
    for arch in ARCHES {
        for nr in 0..480 {
            for _ in 0..2 {
                let mut data = random_call(&mut r, &CALLS, &[arch.0]);
                (data.arch, data.nr, data.big) = (arch.1, arch.4 + nr, big_endian(arch.1));
                let want = judge(&p, &data);
                let (got, _) = run(&filter.program, &data);
                assert!(
                    want.iter().all(|w| *w == got),
                    "{got:#x}, not {want:x?}: {data:x?}"
                );
            }
        }
    }
}
