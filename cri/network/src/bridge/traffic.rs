//! Limits of bandwidth: a token bucket filter (tbf) at the end of the pair by which traffic leaves.
//!
//! Both ends belong to one pair, so each direction has a queue of its own and no device in between is
//! needed. The one inside is the container's to change if it has CAP_NET_ADMIN, which it has not by
//! default. Rates and bursts are in bits, as CNI has them; the kernel counts bytes (linux/pkt_sched.h).

use crate::netlink::message::{Batch, CREATE, NESTED};
use crate::netlink::{Socket, route};
use crate::request::Bandwidth;
use crate::{Context, Error, ErrorKind, Result};

use super::host;

const NEWQDISC: u16 = 36;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// `TC_H_ROOT`.
const ROOT: u32 = 0xffff_ffff;
/// 1:
const HANDLE: u32 = 0x0001_0000;
/// What a packet may wait; what would wait longer is dropped.
const LATENCY_US: u64 = 25_000;
/// Bits in a second below which nothing useful goes through (the least that Kubernetes accepts).
const RATE_MIN: u64 = 1_000;
/// Bits in a second that the kernel can count.
const RATE_MAX: u64 = 1_000_000_000_000_000;
/// Nanoseconds in a tick of the kernel's packet clock are this power of two.
const PSCHED_SHIFT: u32 = 6;

/// What is wrong with limits.
pub(super) fn check(limits: &Bandwidth) -> Result<(), String> {
    for (rate, burst) in [limits.ingress, limits.egress].into_iter().flatten() {
        if !(RATE_MIN..=RATE_MAX).contains(&rate) {
            return Err(format!(
                "a bandwidth of {rate} bits in a second is not between {RATE_MIN} and {RATE_MAX}"
            ));
        }
        if burst / 8 > u64::from(u32::MAX) {
            return Err(format!("a burst of {burst} bits is too large"));
        }
    }
    Ok(())
}

/// What the kernel is told: bytes in a second, of the bucket, and of the queue.
#[derive(Debug, PartialEq, Eq)]
struct Bucket {
    rate: u64,
    burst: u32,
    queue: u32,
}

impl Bucket {
    /// A bucket that holds less than a packet lets none through, and one that holds less than what comes
    /// between two ticks of a slow clock (4 ms) never reaches its rate.
    fn new(rate: u64, burst: u64, mtu: u32) -> Self {
        let rate = (rate / 8).max(1);
        // The kernel counts the header of Ethernet, and offloaded packets are cut to fit.
        let least = u64::from(mtu + 14).max(rate / 250);
        let small = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        let burst = (burst / 8).max(least);
        let queue = burst.saturating_add(rate.saturating_mul(LATENCY_US) / 1_000_000);
        Self {
            rate,
            burst: small(burst),
            queue: small(queue),
        }
    }

    /// `struct tc_tbf_qopt`: rate, peak rate, queue, time in which the bucket is filled, MTU.
    fn options(&self) -> [u8; 36] {
        let mut bytes = [0; 36];
        // `struct tc_ratespec`: cell size, link layer (Ethernet), overhead, cell alignment, mpu, rate.
        bytes[1] = 1;
        let rate = u32::try_from(self.rate).unwrap_or(u32::MAX);
        bytes[8..12].copy_from_slice(&rate.to_ne_bytes());
        bytes[24..28].copy_from_slice(&self.queue.to_ne_bytes());
        let nanos = u64::from(self.burst).saturating_mul(1_000_000_000) / self.rate;
        let ticks = u32::try_from(nanos >> PSCHED_SHIFT).unwrap_or(u32::MAX);
        bytes[28..32].copy_from_slice(&ticks.to_ne_bytes());
        bytes
    }
}

/// Limits what leaves by a device, if it is to be limited.
pub(super) fn limit(
    socket: &mut Socket,
    device: &str,
    limit: Option<(u64, u64)>,
    mtu: u32,
) -> Result<()> {
    let Some((rate, burst)) = limit else {
        return Ok(());
    };
    let missing = || Error::new(ErrorKind::Internal, format!("device {device} is missing"));
    let link = host::link(socket, device)?.ok_or_else(missing)?;
    let mut batch = socket.batch();
    put(&mut batch, &link, &Bucket::new(rate, burst, mtu));
    batch.acknowledged();
    socket.change(batch).context(|| {
        format!("cannot limit {device} to {rate} bits in a second (CONFIG_NET_SCH_TBF)")
    })
}

fn put(batch: &mut Batch, link: &route::Link, bucket: &Bucket) {
    // `struct tcmsg`: family, index, handle, parent, info.
    let mut body = [0; 20];
    body[4..8].copy_from_slice(&link.index.to_ne_bytes());
    body[8..12].copy_from_slice(&HANDLE.to_ne_bytes());
    body[12..16].copy_from_slice(&ROOT.to_ne_bytes());
    batch
        .begin(NEWQDISC, CREATE | REPLACE, &body)
        .put_text(TCA_KIND, "tbf")
        .nest(TCA_OPTIONS | NESTED, |b| {
            b.put(TCA_TBF_PARMS, &bucket.options());
            b.put_u32(TCA_TBF_BURST, bucket.burst);
            if bucket.rate > u64::from(u32::MAX) {
                b.put(TCA_TBF_RATE64, &bucket.rate.to_ne_bytes());
            }
        });
}

/// `NLM_F_REPLACE`.
const REPLACE: u16 = 0x100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_let_packets_through() {
        for (rate, burst, mtu, want) in [
            // 8 Mbit/s: 1 MB/s, a burst as asked for, 25 ms more in the queue.
            (8_000_000, 80_000, 1500, (1_000_000, 10_000, 35_000)),
            // No burst: a packet at least, or 4 ms.
            (80_000, 0, 1500, (10_000, 1514, 1764)),
            (80_000_000, 0, 1500, (10_000_000, 40_000, 290_000)),
            (1_000, 0, 1500, (125, 1514, 1517)),
        ] {
            let (rate, burst, queue) = {
                let bucket = Bucket::new(rate, burst, mtu);
                (bucket.rate, bucket.burst, bucket.queue)
            };
            assert_eq!((rate, burst, queue), want);
        }
    }

    #[test]
    fn limits_that_cannot_be() {
        let limits = |rate, burst| Bandwidth {
            egress: Some((rate, burst)),
            ..Bandwidth::default()
        };
        check(&Bandwidth::default()).unwrap();
        check(&limits(1_000_000, u64::from(u32::MAX))).unwrap();
        check(&limits(RATE_MAX, 0)).unwrap();
        for (rate, burst) in [(0, 0), (999, 0), (RATE_MAX + 1, 0), (1000, u64::MAX)] {
            check(&limits(rate, burst)).unwrap_err();
        }
    }
}
