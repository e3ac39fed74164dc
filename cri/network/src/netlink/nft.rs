//! Messages of nf_tables (linux/netfilter/nf_tables.h): tables, chains, rules, maps, elements. Pure.
//!
//! A transaction is one datagram: a beginning, messages, an end; the kernel does all of it or nothing.
//! Numbers in attributes are in the network's byte order. The data types of maps and the comments are
//! those of the nft program, so that `nft list ruleset` shows what a person can read.

use super::message::{APPEND, Batch, CREATE, NESTED, attributes};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = SUBSYSTEM;
const GETTABLE: u16 = SUBSYSTEM | 1;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const NEWRULE: u16 = SUBSYSTEM | 6;
const NEWSET: u16 = SUBSYSTEM | 9;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const DELSETELEM: u16 = SUBSYSTEM | 14;

/// Chains and rules of this family see IPv4 and IPv6.
const FAMILY: u8 = 1;

/// Registers: the first of 16 bytes, and those of 4 bytes from there on.
const REG_1: u32 = 1;
const REG32: u32 = 8;

const SET_MAP: u32 = 8;

/// `struct nfgenmsg`.
fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// Builds one transaction.
#[derive(Debug)]
pub(crate) struct Transaction<'a> {
    batch: Batch,
    table: &'a str,
    sets: u32,
    changes: usize,
}

impl<'a> Transaction<'a> {
    /// Everything in it is about one table.
    pub(crate) fn new(mut batch: Batch, table: &'a str) -> Self {
        batch.begin(BATCH_BEGIN, 0, &header(0, SUBSYSTEM >> 8));
        let (sets, changes) = (0, 0);
        Self {
            batch,
            table,
            sets,
            changes,
        }
    }

    /// Whether it would change nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes == 0
    }

    /// Ends it. The last change asks for an answer: that one is sent when all are done, or none.
    pub(crate) fn finish(mut self) -> Batch {
        self.batch.acknowledged();
        self.batch.begin(BATCH_END, 0, &header(0, SUBSYSTEM >> 8));
        self.batch
    }

    fn begin(&mut self, kind: u16, flags: u16) -> &mut Batch {
        self.changes += 1;
        self.batch.begin(kind, flags, &header(FAMILY, 0));
        self.batch.put_text(1, self.table)
    }

    /// The table, unless it exists.
    pub(crate) fn add_table(&mut self) {
        self.begin(NEWTABLE, CREATE).put_be32(2, 0);
    }

    /// The table and all in it.
    pub(crate) fn delete_table(&mut self) {
        self.begin(DELTABLE, 0);
    }

    /// A chain, called by the kernel if it has a hook.
    pub(crate) fn add_chain(&mut self, name: &str, hook: Option<&Hook>) {
        let batch = self.begin(NEWCHAIN, CREATE);
        batch.put_text(3, name);
        if let Some(hook) = hook {
            batch.nest(4 | NESTED, |b| {
                b.put_be32(1, hook.number);
                b.put_be32(2, hook.priority as u32);
            });
            batch.put_text(7, hook.kind);
        }
    }

    /// A map, by whose keys nothing is found yet.
    pub(crate) fn add_map(&mut self, name: &str, key: &[Type], value: &[Type]) {
        self.sets += 1;
        let id = self.sets;
        self.begin(NEWSET, CREATE)
            .put_text(2, name)
            .put_be32(3, SET_MAP)
            .put_be32(4, number(key))
            .put_be32(5, length(key))
            .put_be32(6, number(value))
            .put_be32(7, length(value))
            .put_be32(10, id);
    }

    /// A rule at the end of a chain.
    pub(crate) fn add_rule(&mut self, chain: &str, comment: &str, expressions: &[Expression<'_>]) {
        let batch = self.begin(NEWRULE, CREATE | APPEND);
        batch.put_text(2, chain);
        batch.nest(4 | NESTED, |b| {
            for expression in expressions {
                expression.encode(b);
            }
        });
        batch.put(7, &remark(comment));
    }

    /// Elements of a map. They need not be absent, but what they say must not differ.
    pub(crate) fn add_elements<'e>(
        &mut self,
        map: &str,
        elements: impl IntoIterator<Item = &'e Element>,
    ) {
        self.elements(NEWSETELEM, CREATE, map, elements, true);
    }

    /// The elements of a map with these keys. All must exist.
    pub(crate) fn delete_elements<'e>(
        &mut self,
        map: &str,
        elements: impl IntoIterator<Item = &'e Element>,
    ) {
        self.elements(DELSETELEM, 0, map, elements, false);
    }

    /// One message for each element: an attribute has no room for thousands.
    fn elements<'e>(
        &mut self,
        kind: u16,
        flags: u16,
        map: &str,
        elements: impl IntoIterator<Item = &'e Element>,
        whole: bool,
    ) {
        for element in elements {
            let batch = self.begin(kind, flags);
            batch.put_text(2, map);
            batch.nest(3 | NESTED, |b| {
                b.nest(1 | NESTED, |b| {
                    b.nest(1 | NESTED, |b| {
                        b.put(1, &element.key);
                    });
                    if whole {
                        b.nest(2 | NESTED, |b| {
                            b.put(1, &element.value);
                        });
                        b.put(6, &remark(&element.comment));
                    }
                });
            });
        }
    }
}

/// Asks for a table's number, which is another one when it was made anew.
pub(crate) fn get_table(batch: &mut Batch, table: &str) {
    batch
        .begin(GETTABLE, 0, &header(FAMILY, 0))
        .put_text(1, table);
}

/// Reads that number.
pub(crate) fn parse_table(body: &[u8]) -> Option<u64> {
    let (_, value) = attributes(body, 4).find(|(kind, _)| *kind == 4)?;
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

/// Comments as the nft program stores them: a type, a length, a text with its terminator.
fn remark(text: &str) -> Vec<u8> {
    let text: Vec<u8> = text.bytes().take(127).chain([0]).collect();
    [&[0, text.len() as u8][..], &text].concat()
}

/// When the kernel calls a chain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook {
    pub(crate) kind: &'static str,
    pub(crate) number: u32,
    pub(crate) priority: i32,
}

/// What comes in, before anything else looks at it.
pub(crate) const FIRST: Hook = Hook {
    kind: "filter",
    number: 0,
    priority: -300,
};
/// Where the destination of what comes in is changed.
pub(crate) const INCOMING: Hook = Hook {
    kind: "nat",
    number: 0,
    priority: -100,
};
/// Where the destination of what the host sends is changed.
pub(crate) const LOCAL: Hook = Hook {
    kind: "nat",
    number: 3,
    priority: -100,
};
/// Where the source of what goes out is changed.
pub(crate) const OUTGOING: Hook = Hook {
    kind: "nat",
    number: 4,
    priority: 100,
};

/// Types of the parts of keys and values; numbers of the nft program, which the kernel only keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Ipv4,
    Ipv6,
    Protocol,
    Port,
}

impl Type {
    fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
        }
    }

    /// In registers, which have four bytes each.
    fn length(self) -> u32 {
        match self {
            Self::Ipv6 => 16,
            _ => 4,
        }
    }
}

fn number(types: &[Type]) -> u32 {
    types.iter().fold(0, |sum, part| sum << 6 | part.number())
}

fn length(types: &[Type]) -> u32 {
    types.iter().map(|part| part.length()).sum()
}

/// An element of a map, its parts padded to four bytes each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) comment: String,
}

/// Appends a part of a key or a value.
pub(crate) fn part(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(bytes);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// What a rule does, in its order; one that does not apply ends the rule. Registers are counted in steps
/// of four bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expression<'a> {
    /// IPv4 (2) or IPv6 (10)?
    Family(u8),
    /// The packet's protocol above IP.
    LoadProtocol(u32),
    /// Bytes of the network header (1) or the one above it (2).
    Load {
        base: u32,
        offset: u32,
        length: u32,
        register: u32,
    },
    /// The device it came by.
    ArrivedBy(&'a str),
    /// The device it leaves by.
    LeavesBy(&'a str),
    /// Whether its destination is an address of this host.
    ToThisHost,
    /// Whether its destination was changed.
    Translated,
    /// Whether the address in the first register is in a network (or is not).
    Within {
        network: &'a [u8],
        mask: &'a [u8],
        inside: bool,
    },
    /// Find the first register in a map, and what is found into the first register.
    Find(&'a str),
    /// New destination: the address in the first register, the port in the given one.
    Destination {
        family: u32,
        port: u32,
    },
    /// New source: the address of the device it leaves by.
    Masquerade,
    Drop,
    Jump(&'a str),
}

/// A register in steps of four bytes.
fn register(number: u32) -> u32 {
    match number {
        0 => REG_1,
        other => REG32 + other,
    }
}

impl Expression<'_> {
    fn encode(&self, b: &mut Batch) {
        match *self {
            Self::Family(family) => {
                meta(b, 15, 0);
                compare(b, 0, &[family]);
            }
            Self::LoadProtocol(to) => meta(b, 16, to),
            Self::Load {
                base,
                offset,
                length,
                register: to,
            } => call(b, "payload", |b| {
                b.put_be32(1, register(to)).put_be32(2, base);
                b.put_be32(3, offset).put_be32(4, length);
            }),
            Self::ArrivedBy(name) => {
                meta(b, 6, 0);
                compare(b, 0, &device(name));
            }
            Self::LeavesBy(name) => {
                meta(b, 7, 0);
                compare(b, 0, &device(name));
            }
            Self::ToThisHost => {
                call(b, "fib", |b| {
                    b.put_be32(1, REG_1).put_be32(2, 3).put_be32(3, 2);
                });
                compare(b, 0, &2u32.to_ne_bytes());
            }
            Self::Translated => {
                // IPS_DST_NAT of the connection's status.
                call(b, "ct", |b| {
                    b.put_be32(1, REG_1).put_be32(2, 2);
                });
                mask(b, &(1u32 << 5).to_ne_bytes());
                compare(b, 1, &0u32.to_ne_bytes());
            }
            Self::Within {
                network,
                mask: bits,
                inside,
            } => {
                mask(b, bits);
                compare(b, u32::from(!inside), network);
            }
            Self::Find(map) => call(b, "lookup", |b| {
                b.put_text(1, map).put_be32(2, REG_1).put_be32(3, REG_1);
            }),
            Self::Destination { family, port } => call(b, "nat", |b| {
                b.put_be32(1, 1).put_be32(2, family).put_be32(3, REG_1);
                b.put_be32(5, register(port));
            }),
            Self::Masquerade => call(b, "masq", |_| {}),
            Self::Drop => verdict(b, 0, None),
            Self::Jump(chain) => verdict(b, -3, Some(chain)),
        }
    }
}

/// One expression of the kernel: its name and what it is told.
fn call(b: &mut Batch, name: &str, fill: impl FnOnce(&mut Batch)) {
    b.nest(1 | NESTED, |b| {
        b.put_text(1, name).nest(2 | NESTED, fill);
    });
}

fn meta(b: &mut Batch, key: u32, to: u32) {
    call(b, "meta", |b| {
        b.put_be32(1, register(to)).put_be32(2, key);
    });
}

/// Operation 0: equal; 1: not equal.
fn compare(b: &mut Batch, operation: u32, value: &[u8]) {
    call(b, "cmp", |b| {
        b.put_be32(1, REG_1).put_be32(2, operation);
        b.nest(3 | NESTED, |b| {
            b.put(1, value);
        });
    });
}

fn mask(b: &mut Batch, bits: &[u8]) {
    call(b, "bitwise", |b| {
        b.put_be32(1, REG_1).put_be32(2, REG_1);
        b.put_be32(3, bits.len() as u32);
        b.nest(4 | NESTED, |b| {
            b.put(1, bits);
        });
        b.nest(5 | NESTED, |b| {
            b.put(1, &vec![0; bits.len()]);
        });
    });
}

fn verdict(b: &mut Batch, code: i32, chain: Option<&str>) {
    call(b, "immediate", |b| {
        b.put_be32(1, 0);
        b.nest(2 | NESTED, |b| {
            b.nest(2 | NESTED, |b| {
                b.put_be32(1, code as u32);
                if let Some(chain) = chain {
                    b.put_text(2, chain);
                }
            });
        });
    });
}

/// Names of devices are compared with all bytes that the kernel keeps for them.
fn device(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands between the beginning and the end of a transaction, behind the header.
    fn one(build: impl FnOnce(&mut Transaction<'static>)) -> String {
        let mut changes = Transaction::new(Batch::new(1), "t");
        build(&mut changes);
        let bytes = changes.finish().finish().bytes;
        let body = &bytes[20 + 20..bytes.len() - 20];
        body.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn messages_are_what_the_kernel_reads() {
        let element = Element {
            key: vec![6, 0, 0, 0, 0x1f, 0x90, 0, 0],
            value: vec![10, 0, 0, 5, 0, 80, 0, 0],
            comment: "c".into(),
        };
        let table = "06000100 74000000";
        for (got, want) in [
            (one(Transaction::add_table), "08000200 00000000"),
            (one(Transaction::delete_table), ""),
            (
                one(|t| t.add_chain("c", Some(&OUTGOING))),
                "06000300 63000000 14000480 08000100 00000004 08000200 00000064 08000700 6e617400",
            ),
            (
                one(|t| {
                    t.add_map(
                        "m",
                        &[Type::Protocol, Type::Port],
                        &[Type::Ipv4, Type::Port],
                    );
                }),
                "06000200 6d000000 08000300 00000008 08000400 0000030d 08000500 00000008 \
                 08000600 000001cd 08000700 00000008 08000a00 00000001",
            ),
            (
                one(|t| t.delete_elements("m", [&element])),
                "06000200 6d000000 18000380 14000180 10000180 0c000100 06000000 1f900000",
            ),
            (
                one(|t| t.add_elements("m", [&element])),
                "06000200 6d000000 30000380 2c000180 10000180 0c000100 06000000 1f900000 \
                 10000280 0c000100 0a000005 00500000 08000600 00026300",
            ),
            (
                one(|t| t.add_rule("c", "", &[Expression::Masquerade])),
                "06000200 63000000 18000480 14000180 09000100 6d617371 00000000 04000280 \
                 07000700 00010000",
            ),
            (
                one(|t| t.add_rule("c", "", &[Expression::LoadProtocol(0)])),
                "06000200 63000000 28000480 24000180 09000100 6d657461 00000000 14000280 \
                 08000100 00000001 08000200 00000010 07000700 00010000",
            ),
        ] {
            let want: String = format!("{table} {want}").split_whitespace().collect();
            assert_eq!(got, want);
        }
    }

    #[test]
    fn what_is_empty_is_known_and_comments_end() {
        assert!(Transaction::new(Batch::new(1), "t").is_empty());
        assert_eq!(remark(&"x".repeat(500)).len(), 2 + 128);
        assert_eq!(parse_table(&[0; 3]), None);
    }
}
