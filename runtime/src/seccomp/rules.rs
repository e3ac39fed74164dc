//! From the configuration to one outcome per system call and architecture.
//!
//! Owns the meaning of a profile: actions and their errno, arguments, which of several rules for one
//! call wins, multiplexed calls. Emits no code. Runtime specification, config-linux.md, "Seccomp";
//! where that is silent, what runc with libseccomp does:
//!
//! - A rule whose action is the default action is dropped.
//! - The first rule without conditions beats every other rule for its call.
//! - Otherwise conditional rules are tried in the order of [`Rule::rank`]: highest first argument
//!   first, equality before upper before lower bounds, narrower bounds first; equally ranked ones as
//!   listed. Equal conditions with different actions are refused.
//! - A rule with two conditions on one argument stands for one rule per condition (any may match).
//! - On 32-bit architectures and x32 the low words alone are compared.
//! - On architectures with socketcall(2) and ipc(2) a rule for a call they multiplex is applied to
//!   them, too; a condition on the first argument cannot be kept there.

use std::cmp::Ordering;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use super::arch::{self, Abi, PLAIN, SLOTS};
use super::table::Row;
use crate::error::{Error, Result};

/// `SECCOMP_RET_ERRNO | ENOSYS`.
pub(super) const RET_ENOSYS: u32 = 0x0005_0000 | 38;
/// `SECCOMP_RET_KILL_THREAD`, what calls of an architecture not listed get.
pub(super) const RET_KILL_THREAD: u32 = 0;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const EPERM: u32 = 1;

/// How an argument is compared; the specification's seven operators without their negations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Eq,
    Gt,
    Ge,
    Masked,
}

/// One condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cond {
    pub(super) index: u8,
    pub(super) op: Op,
    /// The comparison must fail instead of hold.
    pub(super) negated: bool,
    pub(super) mask: u64,
    pub(super) value: u64,
}

impl Cond {
    fn new(arg: &LinuxSeccompArg, syscall: &str) -> Result<Self> {
        use LinuxSeccompOperator as O;
        let index = u8::try_from(arg.index()).ok().filter(|i| *i < 6).ok_or_else(|| {
            Error::invalid(format!(
                "error creating seccomp syscall condition for syscall {syscall}: argument index {} \
                 is not below 6",
                arg.index()
            ))
        })?;
        let (op, negated) = match arg.op() {
            O::ScmpCmpEq => (Op::Eq, false),
            O::ScmpCmpNe => (Op::Eq, true),
            O::ScmpCmpGt => (Op::Gt, false),
            O::ScmpCmpLe => (Op::Gt, true),
            O::ScmpCmpGe => (Op::Ge, false),
            O::ScmpCmpLt => (Op::Ge, true),
            O::ScmpCmpMaskedEq => (Op::Masked, false),
        };
        let (mask, value) = match op {
            Op::Masked => (arg.value(), arg.value_two().unwrap_or(0) & arg.value()),
            _ => (u64::MAX, arg.value()),
        };
        Ok(Self {
            index,
            op,
            negated,
            mask,
            value,
        })
    }

    /// The condition as this architecture checks it; `None` if it always holds.
    pub(super) fn on(self, abi: Abi) -> Option<Self> {
        let width = if abi.wide {
            u64::MAX
        } else {
            u64::from(u32::MAX)
        };
        let cond = Self {
            mask: self.mask & width,
            value: self.value & width,
            ..self
        };
        (cond.mask != 0).then_some(cond)
    }

    fn rank(&self) -> (u8, u8, u64) {
        match (self.op, self.negated) {
            (Op::Eq | Op::Masked, _) => (self.index, 3, self.value),
            // Of two upper bounds the lower one is narrower.
            (_, true) => (self.index, 2, !self.value),
            (_, false) => (self.index, 1, self.value),
        }
    }
}

/// Conditions that must all hold, and what happens then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// Sorted by argument, at most one per argument.
    pub(super) conds: Vec<Cond>,
    pub(super) action: u32,
}

impl Rule {
    /// The rule as this architecture checks it.
    fn on(&self, abi: Abi) -> Self {
        Self {
            conds: self.conds.iter().filter_map(|c| c.on(abi)).collect(),
            action: self.action,
        }
    }

    fn always_on(&self, abi: Abi) -> bool {
        self.conds.iter().all(|c| c.on(abi).is_none())
    }

    /// Orders rules by the place at which they are tried.
    fn rank(&self, other: &Self) -> Ordering {
        for (a, b) in self.conds.iter().zip(&other.conds) {
            match b.rank().cmp(&a.rank()) {
                Ordering::Equal => {}
                order => return order,
            }
        }
        self.conds.len().cmp(&other.conds.len())
    }
}

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// No rule names it.
    Default,
    /// One action, whatever the arguments.
    Always(u32),
    /// The conditional rules of a list; the default action if none matches.
    Chain(u16),
}

/// All calls of one architecture.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) abi: Abi,
    /// By [`Abi::slot`].
    pub(super) outcomes: Vec<Outcome>,
    /// The highest slot the profile names, ARM's private calls aside.
    pub(super) newest: Option<usize>,
}

/// A profile, resolved.
#[derive(Debug)]
pub(super) struct Profile {
    pub(super) default: u32,
    /// Calls newer than [`Calls::newest`] do not exist for the container.
    pub(super) enosys: bool,
    pub(super) calls: Vec<Calls>,
    pub(super) unknown: Vec<String>,
    rules: Vec<Rule>,
    /// Lists of rules as a tree of suffixes: (list before, rule added). Equal lists share a number.
    chains: Vec<(u16, u16)>,
}

impl Profile {
    /// Resolves a profile for `abis`.
    pub(super) fn new(seccomp: &LinuxSeccomp, abis: &[Abi]) -> Result<Self> {
        let default = action_value(
            seccomp.default_action(),
            seccomp.default_errno_ret(),
            "defaultErrnoRet",
        )?;
        let permissive = matches!(default & 0xffff_0000, RET_ALLOW | RET_LOG | RET_TRACE)
            || default == RET_ENOSYS;
        let calls = abis
            .iter()
            .map(|abi| Calls {
                abi: *abi,
                outcomes: vec![Outcome::Default; SLOTS],
                newest: None,
            })
            .collect();
        let mut profile = Self {
            default,
            enosys: !permissive,
            calls,
            unknown: Vec::new(),
            rules: Vec::new(),
            chains: vec![(0, 0)],
        };
        for entry in seccomp.syscalls().iter().flatten() {
            profile.add_entry(entry)?;
        }
        Ok(profile)
    }

    fn add_entry(&mut self, entry: &LinuxSyscall) -> Result<()> {
        let action = action_value(entry.action(), entry.errno_ret(), "errnoRet")?;
        let args = entry.args().as_deref().unwrap_or(&[]);
        let first_name = entry.names().first().map_or("", String::as_str);
        let first_rule = self.rules.len();
        if action != self.default {
            for rule in split(args, action, first_name)? {
                self.new_rule(rule)?;
            }
        }
        let rules = first_rule..self.rules.len();
        for name in entry.names() {
            if name.is_empty() {
                return Err(Error::invalid("empty string is not a valid syscall"));
            }
            let Some(row) = arch::lookup(name) else {
                self.unknown.push(name.clone());
                continue;
            };
            let mux = if self.calls.iter().any(|c| c.abi.mux) {
                arch::multiplexed(name)
            } else {
                None
            };
            self.note_newest(row, mux.map(|m| m.0));
            for rule in rules.clone() {
                self.add_rule(row, mux, rule)?;
            }
        }
        Ok(())
    }

    fn note_newest(&mut self, row: &Row, mux: Option<usize>) {
        for calls in &mut self.calls {
            let direct = calls.abi.slot(row).filter(|slot| *slot < PLAIN);
            let through = mux.filter(|_| calls.abi.mux);
            calls.newest = calls.newest.max(direct).max(through);
        }
    }

    fn new_rule(&mut self, rule: Rule) -> Result<u16> {
        let id = u16::try_from(self.rules.len())
            .map_err(|_| Error::invalid("seccomp profile has more than 65536 rules"))?;
        self.rules.push(rule);
        Ok(id)
    }

    fn add_rule(&mut self, row: &Row, mux: Option<(usize, u64)>, rule: usize) -> Result<()> {
        let mut through = None;
        for i in 0..self.calls.len() {
            let abi = self.calls[i].abi;
            if let (Some((slot, call)), true) = (mux, abi.mux) {
                let id = match through {
                    Some(id) => id,
                    None => self.new_rule(multiplex(&self.rules[rule], call))?,
                };
                through = Some(id);
                self.apply(i, slot, id)?;
            }
            if let Some(slot) = abi.slot(row) {
                self.apply(i, slot, rule as u16)?;
            }
        }
        Ok(())
    }

    fn apply(&mut self, calls: usize, slot: usize, rule: u16) -> Result<()> {
        let Calls { abi, outcomes, .. } = &mut self.calls[calls];
        let list = match outcomes[slot] {
            Outcome::Always(_) => return Ok(()),
            Outcome::Default => 0,
            Outcome::Chain(list) => list,
        };
        let r = &self.rules[usize::from(rule)];
        outcomes[slot] = if r.always_on(*abi) {
            Outcome::Always(r.action)
        } else {
            let link = (list, rule);
            let known = self.chains.iter().skip(1).position(|c| *c == link);
            let id = known.map_or(self.chains.len(), |i| i + 1);
            if known.is_none() {
                self.chains.push(link);
            }
            Outcome::Chain(u16::try_from(id).map_err(|_| {
                Error::invalid("seccomp profile has more than 65535 combinations of rules")
            })?)
        };
        Ok(())
    }

    /// The rules of a list as `abi` checks them, in the order in which they are tried.
    pub(super) fn chain(&self, mut list: u16, abi: Abi, slot: usize) -> Result<Vec<Rule>> {
        let mut rules = Vec::new();
        while list != 0 {
            let (before, rule) = self.chains[usize::from(list)];
            rules.push(self.rules[usize::from(rule)].on(abi));
            list = before;
        }
        rules.reverse();
        rules.sort_by(Rule::rank);
        rules.dedup();
        // Equal rank does not imply equal conditions, hence all pairs of equals in rank.
        for (i, a) in rules.iter().enumerate() {
            let rest = rules[i + 1..]
                .iter()
                .take_while(|b| a.rank(b) == Ordering::Equal);
            for b in rest {
                if a.conds == b.conds && a.action != b.action {
                    return Err(Error::invalid(format!(
                        "seccomp rules for syscall {} have the same conditions and different actions",
                        abi.name_of(slot)
                    )));
                }
            }
        }
        Ok(rules)
    }
}

/// The rules one entry stands for.
fn split(args: &[LinuxSeccompArg], action: u32, syscall: &str) -> Result<Vec<Rule>> {
    let mut conds = args
        .iter()
        .map(|a| Cond::new(a, syscall))
        .collect::<Result<Vec<_>>>()?;
    let mut seen = 0u8;
    let mut repeated = false;
    for c in &conds {
        repeated |= seen & (1 << c.index) != 0;
        seen |= 1 << c.index;
    }
    if repeated {
        return Ok(conds
            .into_iter()
            .map(|c| Rule {
                conds: vec![c],
                action,
            })
            .collect());
    }
    conds.sort_by_key(|c| c.index);
    Ok(vec![Rule { conds, action }])
}

/// A rule for a call as a rule for the call that multiplexes it.
fn multiplex(rule: &Rule, call: u64) -> Rule {
    let number = Cond {
        index: 0,
        op: Op::Eq,
        negated: false,
        mask: u64::MAX,
        value: call,
    };
    let rest = rule.conds.iter().filter(|c| c.index != 0).copied();
    Rule {
        conds: std::iter::once(number).chain(rest).collect(),
        action: rule.action,
    }
}

/// The kernel's number for an action.
fn action_value(action: LinuxSeccompAction, errno: Option<u32>, property: &str) -> Result<u32> {
    use LinuxSeccompAction as A;
    let base = match action {
        A::ScmpActKill | A::ScmpActKillThread => RET_KILL_THREAD,
        A::ScmpActKillProcess => 0x8000_0000,
        A::ScmpActTrap => 0x0003_0000,
        A::ScmpActErrno => 0x0005_0000,
        A::ScmpActNotify => 0x7fc0_0000,
        A::ScmpActTrace => RET_TRACE,
        A::ScmpActLog => RET_LOG,
        A::ScmpActAllow => RET_ALLOW,
    };
    match (action, errno) {
        (A::ScmpActErrno | A::ScmpActTrace, None) => Ok(base | EPERM),
        (A::ScmpActErrno | A::ScmpActTrace, Some(errno)) if errno <= 0xffff => Ok(base | errno),
        (A::ScmpActErrno | A::ScmpActTrace, Some(errno)) => Err(Error::invalid(format!(
            "seccomp {property} {errno} is not below 65536"
        ))),
        (_, None) => Ok(base),
        (_, Some(_)) => Err(Error::invalid(format!(
            "seccomp {property} is set, but {action} takes none"
        ))),
    }
}
