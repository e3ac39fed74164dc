//! Texts of a pod's /etc files.

use std::fmt::Write as _;
use std::net::IpAddr;

use rcrun_runtime::template::files::LOCAL;

/// /etc/hosts of a pod with a network of its own: it finds itself by its name. The kubelet mounts one of its
/// own over it.
pub(super) fn hosts(hostname: &str, addresses: &[IpAddr]) -> String {
    let mut text = LOCAL.to_owned();
    for address in addresses {
        let _ = writeln!(text, "{address}\t{hostname}");
    }
    if addresses.is_empty() {
        let _ = writeln!(text, "127.0.0.1\t{hostname}");
    }
    text
}
