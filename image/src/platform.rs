//! Platforms: `OS/ARCHITECTURE[/VARIANT]`, their spellings, and which of several images suits best.
//!
//! Names are Go's, as in the image specification ("Platform variants", image-index.md). Spellings
//! and the order of preference are the ones of containerd's `platforms` package: a machine also runs
//! what was made for an older variant of its architecture, and then for its 32-bit one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What an image or a machine is made for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// The operating system, Go's name.
    pub os: String,
    /// The architecture, Go's name.
    pub architecture: String,
    /// The variant of the architecture, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// The version of the operating system, which only Windows uses.
    #[serde(
        default,
        rename = "os.version",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
}

impl Platform {
    /// From its parts, normalised.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let (architecture, variant) = normal_architecture(architecture, variant);
        Self {
            os: normal_os(os),
            architecture,
            variant,
            os_version: String::new(),
        }
    }

    /// With its usual spelling.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let os_version = self.os_version.clone();
        Self {
            os_version,
            ..Self::new(&self.os, &self.architecture, &self.variant)
        }
    }

    /// This machine's, with the newest variant its processor has.
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, host_variant())
    }

    /// How well an image made for `other` suits: 0 is best, `None` is not at all.
    pub fn rank(&self, other: &Self) -> Option<usize> {
        let other = other.normalized();
        self.runs().iter().position(|one| {
            one.os == other.os
                && one.architecture == other.architecture
                && one.variant == other.variant
        })
    }

    /// The best of several, the first of equals.
    pub fn best<'a, T>(&self, candidates: impl IntoIterator<Item = (T, &'a Self)>) -> Option<T> {
        candidates
            .into_iter()
            .filter_map(|(item, platform)| Some((self.rank(platform)?, item)))
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, item)| item)
    }

    /// Everything this one runs, best first.
    fn runs(&self) -> Vec<Self> {
        let mut runs = vec![self.normalized()];
        let more = |architecture: &str, variants: &[String]| -> Vec<Self> {
            variants
                .iter()
                .map(|variant| Self::new(&self.os, architecture, variant))
                .collect()
        };
        let own = &runs[0];
        let level = own
            .variant
            .strip_prefix('v')
            .and_then(|v| v.parse::<u32>().ok());
        match own.architecture.as_str() {
            "amd64" => {
                let older = (1..level.unwrap_or(1)).rev().map(|v| format!("v{v}"));
                runs.extend(more("amd64", &older.collect::<Vec<_>>()));
                runs.extend(more("386", &[String::new()]));
            }
            "arm" => {
                let older = (5..level.unwrap_or(7)).rev().map(|v| format!("v{v}"));
                runs.extend(more("arm", &older.collect::<Vec<_>>()));
            }
            "arm64" => {
                runs.extend(more("arm64", &older_arm64(&own.variant)));
                let arm = (5..=8).rev().map(|v| format!("v{v}"));
                runs.extend(more("arm", &arm.collect::<Vec<_>>()));
            }
            _ => {}
        }
        runs
    }
}

/// The variants below `v8.M` and `v9.M`; each v9.M has all of v8.(M+5).
fn older_arm64(variant: &str) -> Vec<String> {
    let Some((major, minor)) = arm64_level(variant) else {
        return Vec::new();
    };
    let name = |major: u32, minor: u32| match minor {
        0 => format!("v{major}"),
        _ => format!("v{major}.{minor}"),
    };
    let mut older: Vec<String> = (0..minor).rev().map(|minor| name(major, minor)).collect();
    if major == 9 {
        older.extend((0..=(minor + 5).min(9)).rev().map(|minor| name(8, minor)));
    }
    older
}

fn arm64_level(variant: &str) -> Option<(u32, u32)> {
    let text = match variant {
        "" => "8",
        other => other.strip_prefix('v')?,
    };
    let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
    let level = (major.parse().ok()?, minor.parse().ok()?);
    matches!(level, (8 | 9, 0..=9)).then_some(level)
}

fn normal_os(os: &str) -> String {
    match os.to_ascii_lowercase().as_str() {
        "macos" => "darwin".into(),
        other => other.into(),
    }
}

fn normal_architecture(architecture: &str, variant: &str) -> (String, String) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "i686" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "v9.0") => ("arm64", "v9"),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        ("powerpc64" | "powerpc64le", variant) => ("ppc64le", variant),
        ("loongarch64", variant) => ("loong64", variant),
        other => other,
    };
    (architecture.into(), variant.into())
}

#[cfg(target_arch = "x86_64")]
fn host_variant() -> &'static str {
    let v2 = is_x86_feature_detected!("cmpxchg16b")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("sse4.2")
        && is_x86_feature_detected!("ssse3");
    let v3 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("movbe")
        && is_x86_feature_detected!("xsave");
    let v4 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (v2, v3, v4) {
        (true, true, true) => "v4",
        (true, true, false) => "v3",
        (true, false, _) => "v2",
        (false, _, _) => "",
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn host_variant() -> &'static str {
    ""
}

impl FromStr for Platform {
    type Err = Error;

    /// Reads `OS/ARCHITECTURE[/VARIANT]`, or one of the first two alone.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::invalid(format!("invalid platform {text:?}: {why}"));
        let valid = |part: &str| {
            let allowed =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
            !part.is_empty() && part.len() <= 32 && part.bytes().all(allowed)
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| valid(part)) {
            return Err(wrong("expected OS/ARCHITECTURE[/VARIANT]"));
        }
        match parts[..] {
            [one] => {
                let os = normal_os(one);
                if SYSTEMS.contains(&os.as_str()) {
                    let host = Self::host();
                    return Ok(Self::new(&os, &host.architecture, &host.variant));
                }
                let alone = Self::new("linux", one, "");
                if ARCHITECTURES.contains(&alone.architecture.as_str()) {
                    return Ok(alone);
                }
                Err(wrong(
                    "neither a known operating system nor a known architecture",
                ))
            }
            [os, architecture] => Ok(Self::new(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::new(os, architecture, variant)),
            _ => Err(wrong("more than three parts")),
        }
    }
}

const SYSTEMS: [&str; 5] = ["linux", "windows", "darwin", "freebsd", "wasip1"];
const ARCHITECTURES: [&str; 11] = [
    "amd64", "386", "arm", "arm64", "ppc64le", "s390x", "riscv64", "loong64", "mips64le", "mips64",
    "wasm",
];

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        let cases = [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/x86-64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/i386", "linux/386"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/v9.0", "linux/arm64/v9"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/arm/5", "linux/arm/v5"),
            ("macos/arm64", "darwin/arm64"),
            ("arm64", "linux/arm64"),
            ("s390x", "linux/s390x"),
        ];
        for (typed, shown) in cases {
            assert_eq!(
                typed.parse::<Platform>().unwrap().to_string(),
                shown,
                "{typed}"
            );
        }
        for wrong in [
            "",
            "/",
            "linux/",
            "linux/a/b/c",
            "vax",
            "linux/a b",
            "linux/\n",
        ] {
            let error = wrong.parse::<Platform>().unwrap_err().to_string();
            assert!(error.starts_with("invalid platform"), "{error}");
        }
        let host = Platform::host();
        assert_eq!("linux".parse::<Platform>().unwrap(), host);
        assert_eq!(host.rank(&host), Some(0));
    }

    #[test]
    fn order_of_preference() {
        let pick = |wanted: &str, offered: &[&str]| {
            let wanted: Platform = wanted.parse().unwrap();
            let offered: Vec<Platform> = offered.iter().map(|text| text.parse().unwrap()).collect();
            wanted
                .best(offered.iter().map(|one| (one, one)))
                .map(ToString::to_string)
        };
        let some = |text: &str| Some(text.to_owned());
        let amd = [
            "linux/386",
            "linux/amd64",
            "linux/amd64/v2",
            "linux/amd64/v3",
            "linux/amd64/v4",
        ];
        assert_eq!(pick("linux/amd64/v3", &amd), some("linux/amd64/v3"));
        assert_eq!(pick("linux/amd64/v3", &amd[..2]), some("linux/amd64"));
        assert_eq!(pick("linux/amd64", &amd), some("linux/amd64"));
        assert_eq!(pick("linux/amd64", &amd[..1]), some("linux/386"));
        assert_eq!(pick("linux/amd64", &amd[2..]), None);
        assert_eq!(pick("linux/386", &amd[1..]), None);
        let arm = [
            "linux/arm/v5",
            "linux/arm/v6",
            "linux/arm/v7",
            "linux/arm/v8",
        ];
        assert_eq!(pick("linux/arm/v6", &arm), some("linux/arm/v6"));
        assert_eq!(pick("linux/arm/v7", &arm[..2]), some("linux/arm/v6"));
        assert_eq!(pick("linux/arm/v5", &arm[1..]), None);
        assert_eq!(pick("linux/arm64", &arm), some("linux/arm/v8"));
        assert_eq!(
            pick("linux/arm64/v9", &["linux/arm64/v8.4", "linux/arm64"]),
            some("linux/arm64/v8.4")
        );
        assert_eq!(pick("linux/arm64", &["linux/arm64/v9"]), None);
        assert_eq!(pick("linux/amd64", &["windows/amd64", "linux/arm64"]), None);
    }

    #[test]
    fn first_of_equals() {
        let platform: Platform = "linux/amd64".parse().unwrap();
        let same = platform.clone();
        assert_eq!(platform.best([(1, &platform), (2, &same)]), Some(1));
    }
}
