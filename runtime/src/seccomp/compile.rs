//! Code generation: from resolved calls to a program.
//!
//! Shape of the program: a comparison per architecture, then per architecture a balanced search tree
//! over ranges of call numbers with the same outcome, whose leaves are return values or the condition
//! checks of a list of rules. Calls whose outcome needs no argument are decided by the number alone, so
//! that the kernel's per-call "always allowed" cache (kernel/seccomp.c, `seccomp_cache_prepare`) covers
//! them. The "no such call" answer for numbers newer than the profile is part of the same tree.

use super::arch::{ARM_PRIVATE, Abi, PLAIN, X32_BIT};
use super::program::{Assembler, Label, Test};
use super::rules::{Calls, Cond, Op, Outcome, Profile, RET_ENOSYS, RET_KILL_THREAD, Rule};
use crate::error::{Error, Result};
use crate::sys::seccomp::SockFilter;

/// `BPF_MAXINSNS`.
const MAX_INSTRUCTIONS: usize = 4096;
/// Offset of `seccomp_data.arch`; `nr` is at 0.
const ARCH: u32 = 4;
const NR: u32 = 0;

/// A range of call numbers, from `first` to the next range, and what happens to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u32,
    to: Label,
}

/// Generates the program.
pub(super) fn generate(profile: &Profile) -> Result<Vec<SockFilter>> {
    let mut asm = Assembler::with_capacity(512);
    let mut sections: Vec<(u32, Label)> = Vec::with_capacity(profile.calls.len());
    for calls in &profile.calls {
        let token = calls.abi.token;
        if sections.iter().any(|s| s.0 == token) {
            continue;
        }
        let ranges = ranges(&mut asm, profile, token)?;
        let tree = tree(&mut asm, &ranges);
        let entry = asm.load(NR, tree);
        sections.push((token, entry));
    }
    let mut next = Label::Ret(RET_KILL_THREAD);
    for (token, entry) in sections.into_iter().rev() {
        next = asm.jump(Test::Eq, token, entry, next, None);
    }
    let entry = asm.load(ARCH, next);
    asm.start(entry);
    if asm.len() > MAX_INSTRUCTIONS {
        return Err(Error::invalid(format!(
            "seccomp profile compiles to {} instructions, the kernel takes at most {MAX_INSTRUCTIONS}",
            asm.len()
        )));
    }
    Ok(asm.finish())
}

/// All numbers of the architectures that share an audit token (x86-64 and x32), in order.
fn ranges(asm: &mut Assembler, profile: &Profile, token: u32) -> Result<Vec<Range>> {
    let find = |x32| {
        profile
            .calls
            .iter()
            .find(|c| c.abi.token == token && c.abi.is_x32() == x32)
    };
    let mut ranges = Vec::with_capacity(128);
    match find(false) {
        Some(calls) => append(asm, profile, calls, 0, &mut ranges)?,
        None => extend(&mut ranges, 0, Label::Ret(RET_KILL_THREAD)),
    }
    if token == super::arch::AUDIT_X86_64 {
        match find(true) {
            Some(calls) => append(asm, profile, calls, X32_BIT, &mut ranges)?,
            None => {
                extend(&mut ranges, X32_BIT, Label::Ret(RET_KILL_THREAD));
                // A tracer writes -1 to skip a call.
                extend(&mut ranges, u32::MAX, Label::Ret(profile.default));
            }
        }
    }
    Ok(ranges)
}

fn extend(ranges: &mut Vec<Range>, first: u32, to: Label) {
    if ranges.last().is_none_or(|r| r.to != to) {
        ranges.push(Range { first, to });
    }
}

/// Appends one architecture's calls, whose numbers start at `start`.
fn append(
    asm: &mut Assembler,
    profile: &Profile,
    calls: &Calls,
    start: u32,
    ranges: &mut Vec<Range>,
) -> Result<()> {
    let default = Label::Ret(profile.default);
    let newest = calls
        .newest
        .filter(|n| profile.enosys && (*n > 0 || start + calls.abi.base > 0));
    let beyond = if newest.is_some() {
        Label::Ret(RET_ENOSYS)
    } else {
        default
    };
    let mut lists: Vec<(u16, Label)> = Vec::new();
    extend(ranges, start, default);
    let mut slots = |slots: std::ops::Range<usize>, first: u32, ranges: &mut Vec<Range>| {
        for slot in slots.clone() {
            let to = match calls.outcomes[slot] {
                Outcome::Always(action) => Label::Ret(action),
                Outcome::Chain(list) => match lists.iter().find(|l| l.0 == list) {
                    Some(known) => known.1,
                    None => {
                        let rules = profile.chain(list, calls.abi, slot)?;
                        let label = rules_code(asm, &rules, calls.abi, default);
                        lists.push((list, label));
                        label
                    }
                },
                Outcome::Default if slot < PLAIN && newest.is_some_and(|n| slot > n) => beyond,
                Outcome::Default => default,
            };
            extend(ranges, first + (slot - slots.start) as u32, to);
        }
        Ok::<(), Error>(())
    };
    slots(0..PLAIN, start + calls.abi.base, ranges)?;
    // s390's call 0 stands for numbers that do not fit its instruction, hence for unknown ones.
    if calls.abi.column == 9 || calls.abi.column == 10 {
        no_setup(ranges, newest.is_some());
    }
    extend(ranges, start + calls.abi.base + PLAIN as u32, beyond);
    if calls.outcomes[PLAIN..]
        .iter()
        .any(|o| *o != Outcome::Default)
    {
        slots(PLAIN..calls.outcomes.len(), ARM_PRIVATE, ranges)?;
        extend(ranges, ARM_PRIVATE + 16, beyond);
    }
    Ok(())
}

/// Answers ENOSYS to call 0.
fn no_setup(ranges: &mut Vec<Range>, wanted: bool) {
    if !wanted {
        return;
    }
    let zero = ranges[0];
    let alone = ranges.get(1).is_some_and(|r| r.first == 1);
    ranges[0].to = Label::Ret(RET_ENOSYS);
    if !alone {
        ranges.insert(
            1,
            Range {
                first: 1,
                to: zero.to,
            },
        );
    }
}

/// A balanced search tree; the accumulator holds the call number.
fn tree(asm: &mut Assembler, ranges: &[Range]) -> Label {
    match ranges {
        [only] => only.to,
        // One call amid others of one kind needs one comparison instead of two.
        [a, b, c] if a.to == c.to && c.first - b.first == 1 => {
            asm.jump(Test::Eq, b.first, b.to, a.to, None)
        }
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let above = tree(asm, high);
            let below = tree(asm, low);
            asm.jump(Test::Ge, high[0].first, above, below, None)
        }
    }
}

/// Checks rules one after the other.
fn rules_code(asm: &mut Assembler, rules: &[Rule], abi: Abi, default: Label) -> Label {
    let mut next = default;
    for rule in rules.iter().rev() {
        let mut matched = Label::Ret(rule.action);
        for cond in rule.conds.iter().rev() {
            let (yes, no) = if cond.negated {
                (next, matched)
            } else {
                (matched, next)
            };
            matched = compare(asm, cond, abi, yes, no);
        }
        next = matched;
    }
    next
}

/// Compares one argument: the high word first where the architecture has one.
fn compare(asm: &mut Assembler, cond: &Cond, abi: Abi, yes: Label, no: Label) -> Label {
    let (high, low) = ((cond.value >> 32) as u32, cond.value as u32);
    let (high_at, low_at) = (abi.high(cond.index), abi.low(cond.index));
    match cond.op {
        Op::Masked => {
            let masks = ((cond.mask >> 32) as u32, cond.mask as u32);
            let low_part = masked(asm, low_at, masks.1, low, yes, no);
            if abi.wide {
                masked(asm, high_at, masks.0, high, low_part, no)
            } else {
                low_part
            }
        }
        Op::Eq => {
            let low_part = asm.jump(Test::Eq, low, yes, no, Some(low_at));
            let low_part = asm.load(low_at, low_part);
            if !abi.wide {
                return low_part;
            }
            let high_part = asm.jump(Test::Eq, high, low_part, no, Some(high_at));
            asm.load(high_at, high_part)
        }
        Op::Gt | Op::Ge => {
            let test = if cond.op == Op::Gt {
                Test::Gt
            } else {
                Test::Ge
            };
            let low_part = asm.jump(test, low, yes, no, Some(low_at));
            let low_part = asm.load(low_at, low_part);
            if !abi.wide {
                return low_part;
            }
            let equal = asm.jump(Test::Eq, high, low_part, no, Some(high_at));
            let above = asm.jump(Test::Gt, high, yes, equal, Some(high_at));
            asm.load(high_at, above)
        }
    }
}

/// Compares some bits of one word.
fn masked(asm: &mut Assembler, at: u32, mask: u32, value: u32, yes: Label, no: Label) -> Label {
    if mask == 0 {
        return yes;
    }
    if value == 0 {
        let test = asm.jump(Test::Set, mask, no, yes, Some(at));
        return asm.load(at, test);
    }
    let holds = (mask == u32::MAX).then_some(at);
    let test = asm.jump(Test::Eq, value, yes, no, holds);
    let test = if holds.is_some() {
        test
    } else {
        asm.and(mask, test)
    };
    asm.load(at, test)
}
