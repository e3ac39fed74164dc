//! Capability sets of config.json -> bit masks (runtime-spec config.md, "Linux Process";
//! capabilities(7)). Pure.

use std::str::FromStr as _;

use oci_spec::runtime as oci;

use crate::error::{Error, Result};

/// The five sets as bit masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Upper limit for all that follows.
    pub bounding: u64,
    /// In force.
    pub effective: u64,
    /// May be put in force.
    pub permitted: u64,
    /// Kept over execve of a file that inherits.
    pub inheritable: u64,
    /// Kept over execve of any program.
    pub ambient: u64,
}

impl Capabilities {
    pub(super) fn plan(sets: &oci::LinuxCapabilities) -> Result<Self> {
        let mut result = Self {
            bounding: mask(sets.bounding().as_ref())?,
            effective: mask(sets.effective().as_ref())?,
            permitted: mask(sets.permitted().as_ref())?,
            inheritable: mask(sets.inheritable().as_ref())?,
            ambient: mask(sets.ambient().as_ref())?,
        };
        // The kernel's condition; to lack a convenience is no reason not to run.
        let possible = result.ambient & result.permitted & result.inheritable;
        for capability in caps::all() {
            if (result.ambient & !possible) & capability.bitmask() != 0 {
                tracing::warn!(
                    "can't raise ambient capability {capability}: it is not both permitted and \
                     inheritable"
                );
            }
        }
        result.ambient = possible;
        Ok(result)
    }

    /// Adds one capability to the sets that make it usable (`exec --cap`). Never inheritable: a
    /// program without file capabilities must not gain it by execve (CVE-2022-29162). Ambient only
    /// where the configuration made it inheritable itself.
    pub fn add(&mut self, name: &str) -> Result<()> {
        let bit = capability_bit(name)
            .ok_or_else(|| Error::invalid(format!("unknown capability {name:?}")))?;
        for set in [&mut self.bounding, &mut self.effective, &mut self.permitted] {
            *set |= bit;
        }
        self.ambient |= bit & self.inheritable;
        Ok(())
    }
}

/// The bit of a capability name, with or without `CAP_`, in any case.
pub fn capability_bit(name: &str) -> Option<u64> {
    caps::Capability::from_str(&caps::to_canonical(name))
        .ok()
        .map(|c| c.bitmask())
}

fn mask(set: Option<&oci::Capabilities>) -> Result<u64> {
    set.into_iter().flatten().try_fold(0, |mask, capability| {
        let name = capability.to_string();
        capability_bit(&name)
            .map(|bit| mask | bit)
            .ok_or_else(|| Error::invalid(format!("unknown capability {name:?}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_capabilities_are_not_inheritable() {
        let mut sets = Capabilities::default();
        sets.add("net_raw").unwrap();
        assert_eq!(
            (sets.bounding, sets.inheritable, sets.ambient),
            (1 << 13, 0, 0)
        );
        assert!(sets.add("CAP_NOT_THERE").is_err());
    }
}
