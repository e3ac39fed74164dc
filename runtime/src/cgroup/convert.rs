//! Conversions between the v1 numbers of the specification and those of cgroup v2. Pure.
//!
//! The formulas are the ones all runtimes share, so that a container weighs the same under each.

use crate::error::{Error, Result};

/// CPU shares (2..=262144, default 1024) as `cpu.weight` (1..=10000, default 100).
///
/// The quadratic curve in log2 that runc 1.4 and crun introduced: minimum, default and maximum of
/// both scales fall on it, which the former linear map missed. 0 means "not set".
pub(super) fn cpu_weight(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1 | 2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

/// Block IO weight (10..=1000) as `io.weight` (1..=10000), linearly. 0 means "not set".
pub(super) fn io_weight(weight: u16) -> u64 {
    match weight {
        0 => 0,
        w => 1 + (u64::from(w).saturating_sub(10)) * 9999 / 990,
    }
}

/// `memory.swap.max` for a limit of memory plus swap; `None`: leave as it is.
///
/// In the specification 0 means "not set" and -1 "no limit".
pub(super) fn swap_max(memory_and_swap: Option<i64>, memory: Option<i64>) -> Result<Option<i64>> {
    let memory = memory.unwrap_or(0);
    match (memory_and_swap.unwrap_or(0), memory) {
        (0, -1) | (-1, _) => Ok(Some(-1)),
        (0, _) => Ok(None),
        (swap, -1) => Ok(Some(swap)),
        (_, 0) => Err(Error::invalid(
            "unable to set swap limit without memory limit",
        )),
        (_, m) if m < 0 => Err(Error::invalid(format!("invalid memory value: {m}"))),
        (swap, m) if swap < m => Err(Error::invalid(
            "memory+swap limit should be >= memory limit",
        )),
        (swap, m) => Ok(Some(swap - m)),
    }
}

/// A list as `0-2,7` as a bit mask, lowest byte first: the form systemd takes.
pub(super) fn cpu_mask(list: &str) -> Result<Vec<u8>> {
    const MAX: u32 = 1 << 16;
    let bad = |part: &str| Error::invalid(format!("invalid CPU or node list element {part:?}"));
    let mut mask: Vec<u8> = Vec::new();
    for part in list
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let from: u32 = from.parse().map_err(|_| bad(part))?;
        let to: u32 = to.parse().map_err(|_| bad(part))?;
        if from > to || to >= MAX {
            return Err(bad(part));
        }
        for bit in from..=to {
            let byte = bit as usize / 8;
            if mask.len() <= byte {
                mask.resize(byte + 1, 0);
            }
            mask[byte] |= 1 << (bit % 8);
        }
    }
    if mask.is_empty() {
        return Err(Error::invalid("empty CPU or node list"));
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_weights() {
        for (shares, weight) in [
            (0, 0),
            (1, 1),
            (2, 1),
            (1024, 100),
            (512, 59),
            (2048, 174),
            (262_144, 10_000),
        ] {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
        assert_eq!(cpu_weight(u64::MAX), 10_000);
        let all: Vec<u64> = (2..262_144).map(cpu_weight).collect();
        assert!(all.is_sorted(), "more shares must never weigh less");
        assert!(all.iter().all(|w| (1..=10_000).contains(w)));
    }

    #[test]
    fn io_weights() {
        for (given, want) in [(0, 0), (10, 1), (750, 7475), (1000, 10_000), (5, 1)] {
            assert_eq!(io_weight(given), want);
        }
    }

    #[test]
    fn swap() {
        for (both, memory, want) in [
            (None, None, None),
            (None, Some(10), None),
            (None, Some(-1), Some(-1)),
            (Some(-1), Some(10), Some(-1)),
            (Some(30), Some(10), Some(20)),
            (Some(10), Some(10), Some(0)),
            (Some(30), Some(-1), Some(30)),
        ] {
            assert_eq!(swap_max(both, memory).unwrap(), want, "{both:?} {memory:?}");
        }
        for (both, memory) in [(Some(5), Some(10)), (Some(5), None), (Some(5), Some(-2))] {
            assert!(swap_max(both, memory).is_err(), "{both:?} {memory:?}");
        }
    }

    #[test]
    fn masks() {
        assert_eq!(cpu_mask("0").unwrap(), [1]);
        assert_eq!(cpu_mask("0-2, 9").unwrap(), [7, 2]);
        assert_eq!(cpu_mask("8,").unwrap(), [0, 1]);
        for bad in ["", ",", "3-1", "a", "1-", "-1", "99999999"] {
            assert!(cpu_mask(bad).is_err(), "{bad}");
        }
    }
}
