//! The interface as the kubelet's authors define it, and what must not be printed of it.

/// Messages and services, generated: `codegen` says how.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    rustdoc::all,
    reason = "generated"
)]
pub mod v1 {
    include!("proto/runtime.v1.rs");
}

#[cfg(any(test, feature = "client"))]
pub mod json;

/// Credentials are never printed, whatever prints the request that they came in.
impl std::fmt::Debug for v1::AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    #[test]
    fn the_generated_code_is_that_of_the_definition() {
        let digest = Sha256::digest(include_bytes!("../proto/api.proto"));
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let generated = include_str!("proto/runtime.v1.rs");
        assert!(
            generated.lines().take(5).any(|line| line.contains(&digest)),
            "cri/proto/api.proto was changed: cargo run -p rcrun-cri-codegen"
        );
    }

    #[test]
    fn credentials_are_not_printed() {
        let auth = super::v1::AuthConfig {
            username: "einer".into(),
            password: "zweiter".into(),
            auth: "dritter".into(),
            server_address: "four".into(),
            identity_token: "fuenfter".into(),
            registry_token: "sechster".into(),
        };
        let request = super::v1::PullImageRequest {
            auth: Some(auth),
            ..Default::default()
        };
        let shown = format!("{request:?}");
        for secret in ["einer", "zweiter", "dritter", "fuenfter", "sechster"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
