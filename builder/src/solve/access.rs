//! Small questions about the store and its images.

use rcrun_image::accounts::{Accounts, accounts};
use rcrun_image::pull::Way;
use rcrun_overlay::layer::Overlay;
use rcrun_overlay::lease::LayerId;
use rcrun_overlay::snapshot::Stack;
use rcrun_overlay::store::Store;

use crate::context::copy::Owner;
use crate::{Context, Result};

/// How layers with these marks came to be.
pub(crate) fn way(marks: Overlay) -> Way {
    match marks {
        Overlay::Trusted => Way::Privileged,
        Overlay::User => Way::Rootless,
    }
}

/// Seconds since 1970 of an RFC 3339 time.
pub(super) fn seconds(text: &str) -> Option<i64> {
    crate::export::time::seconds(text)
}

/// /etc/passwd and /etc/group of layers.
pub(super) fn accounts_of(store: &Store, layers: &[LayerId], marks: Overlay) -> Result<Accounts> {
    let stack = Stack::open(store, layers, marks)?;
    accounts(&stack.lowers(), marks).context(|| "cannot read the accounts of the stage")
}

/// `USER[:GROUP]` as BuildKit reads it for files: a number without a group is both.
pub(super) fn owner(accounts: &Accounts, text: &str) -> Result<Owner> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let number: Option<u32> = match user {
        "root" => Some(0),
        digits => digits.parse().ok(),
    };
    let both = match (number, group) {
        (Some(number), None) => format!("{number}:{number}"),
        (Some(number), Some("root")) => format!("{number}:0"),
        (Some(number), Some(group)) => format!("{number}:{group}"),
        (None, Some("root")) => format!("{user}:0"),
        (None, _) => text.to_owned(),
    };
    let identity = accounts
        .identity(&both, &[])
        .context(|| format!("cannot tell who {text:?} is"))?;
    let (uid, gid) = (identity.uid, identity.gid);
    Ok(Owner { uid, gid })
}
