//! Connections that the kernel remembers (linux/netfilter/nfnetlink_conntrack.h): forgetting some. Pure.
//!
//! Rules that change destinations are asked for the first packet of a connection only. Datagrams from one
//! port to one port are one connection for as long as they keep coming, so a client of a port would stay
//! with the pod that had it before. Kernels before 5.8 refuse the filter; callers let that pass.

use super::message::{Batch, NESTED};

const DELETE: u16 = 1 << 8 | 2;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
/// Of the tuple, the protocol and the destination's port count.
const PROTOCOL_AND_PORT: u32 = 1 << 3 | 1 << 5;

/// Forgets what was sent to a port, whomever it went to.
pub(crate) fn forget_port(batch: &mut Batch, family: u8, protocol: u8, port: u16) {
    // Version 1 of the header: the family counts.
    batch.begin(DELETE, 0, &[family, 1, 0, 0]);
    batch.nest(CTA_TUPLE_ORIG | NESTED, |b| {
        b.nest(CTA_TUPLE_PROTO | NESTED, |b| {
            b.put(CTA_PROTO_NUM, &[protocol]);
            b.put(CTA_PROTO_DST_PORT, &port.to_be_bytes());
        });
    });
    batch.nest(CTA_FILTER | NESTED, |b| {
        b.put_u32(CTA_FILTER_ORIG_FLAGS, PROTOCOL_AND_PORT);
    });
}
