//! Assembler of classic BPF programs, written from the last instruction to the first.
//!
//! Jumps of classic BPF only go forward, so that a program built backwards knows every target when a
//! jump is made: no second pass. A target out of reach of the 8-bit offsets is copied (returns) or
//! reached by an unconditional jump placed close by.

use crate::sys::seccomp::SockFilter;

const LD_ABS: u16 = 0x20;
const AND: u16 = 0x54;
const JA: u16 = 0x05;
const RET: u16 = 0x06;

/// A comparison of the accumulator with a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    /// Equal.
    Eq = 0x15,
    /// Greater, unsigned.
    Gt = 0x25,
    /// Greater or equal, unsigned.
    Ge = 0x35,
    /// Any of the bits is set.
    Set = 0x45,
}

/// Where a jump leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Label {
    /// Ends the program with this action.
    Ret(u32),
    /// An instruction, counted from the end of the program.
    At(usize),
}

/// Farthest target that is used directly; leaves room for the copies that one instruction may need.
const REACH: usize = 250;

/// A program under construction, in reverse order.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    code: Vec<SockFilter>,
    /// The latest copy of each return.
    returns: Vec<(u32, usize)>,
    /// The latest long jump to each far instruction.
    hops: Vec<(usize, usize)>,
}

impl Assembler {
    pub(super) fn with_capacity(instructions: usize) -> Self {
        Self {
            code: Vec::with_capacity(instructions),
            ..Self::default()
        }
    }

    /// The program in the kernel's order.
    pub(super) fn finish(mut self) -> Vec<SockFilter> {
        self.code.reverse();
        self.code
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        self.code.push(SockFilter { code, jt, jf, k });
        self.code.len() - 1
    }

    /// Instructions between the next one to be pushed and `at`.
    fn distance(&self, at: usize) -> usize {
        self.code.len() - 1 - at
    }

    /// A position with the same meaning as `label` that the next instruction can jump to.
    fn near(&mut self, label: Label) -> usize {
        match label {
            Label::Ret(action) => {
                let known = self.returns.iter().position(|r| r.0 == action);
                if let Some(i) = known
                    && self.distance(self.returns[i].1) <= REACH
                {
                    return self.returns[i].1;
                }
                let at = self.push(RET, 0, 0, action);
                match known {
                    Some(i) => self.returns[i].1 = at,
                    None => self.returns.push((action, at)),
                }
                at
            }
            Label::At(target) if self.distance(target) <= REACH => target,
            Label::At(target) => {
                let known = self.hops.iter().position(|h| h.0 == target);
                if let Some(i) = known
                    && self.distance(self.hops[i].1) <= REACH
                {
                    return self.hops[i].1;
                }
                let skip = self.distance(target) as u32;
                let at = self.push(JA, 0, 0, skip);
                match known {
                    Some(i) => self.hops[i].1 = at,
                    None => self.hops.push((target, at)),
                }
                at
            }
        }
    }

    /// `label`, past its load when the accumulator already holds what it loads.
    fn past_load(&self, label: Label, holds: Option<u32>) -> Label {
        match (label, holds) {
            (Label::At(at), Some(offset))
                if self.code[at].code == LD_ABS && self.code[at].k == offset =>
            {
                Label::At(at - 1)
            }
            _ => label,
        }
    }

    /// A conditional jump. `holds` is the data word the accumulator holds unmodified at this point.
    pub(super) fn jump(
        &mut self,
        test: Test,
        k: u32,
        yes: Label,
        no: Label,
        holds: Option<u32>,
    ) -> Label {
        let (yes, no) = (self.past_load(yes, holds), self.past_load(no, holds));
        if yes == no {
            return yes;
        }
        let yes = self.near(yes);
        let no = self.near(no);
        let (jt, jf) = (self.distance(yes) as u8, self.distance(no) as u8);
        Label::At(self.push(test as u16, jt, jf, k))
    }

    /// Loads a word of `struct seccomp_data`, then goes on at `next`.
    pub(super) fn load(&mut self, offset: u32, next: Label) -> Label {
        self.before(LD_ABS, offset, next)
    }

    /// Masks the accumulator, then goes on at `next`.
    pub(super) fn and(&mut self, mask: u32, next: Label) -> Label {
        self.before(AND, mask, next)
    }

    fn before(&mut self, code: u16, k: u32, next: Label) -> Label {
        match next {
            // Nothing that is computed here would be looked at.
            Label::Ret(_) => next,
            Label::At(at) => {
                if at + 1 != self.code.len() {
                    let skip = self.distance(at) as u32;
                    self.push(JA, 0, 0, skip);
                }
                Label::At(self.push(code, 0, 0, k))
            }
        }
    }

    /// Makes `entry` the first instruction.
    pub(super) fn start(&mut self, entry: Label) {
        match entry {
            Label::Ret(action) => _ = self.push(RET, 0, 0, action),
            Label::At(at) if at + 1 == self.code.len() => {}
            Label::At(at) => {
                let skip = self.distance(at) as u32;
                self.push(JA, 0, 0, skip);
            }
        }
    }

    /// Instructions so far.
    pub(super) fn len(&self) -> usize {
        self.code.len()
    }
}
