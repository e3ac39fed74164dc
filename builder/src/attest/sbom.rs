//! SPDX 2.3: the packages of an image, as its own databases tell them. Pure.

use serde_json::{Value, json};

use super::address::escaped;
use crate::Digest;
use crate::export::time::rfc3339;

/// A package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// `deb`, `rpm`, `apk`, `alpm`, `pypi`, `npm` or `golang`, as package URLs call it.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Its version; empty if it has none.
    pub version: String,
    /// For which machine, where the database says.
    pub architecture: Option<String>,
    /// What it was built from, if that has another name.
    pub source: Option<String>,
    /// The file that says so.
    pub file: String,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Packages.
    pub packages: Vec<Package>,
    /// `ID` of os-release.
    pub distribution: Option<String>,
    /// `VERSION_ID` of os-release.
    pub version: Option<String>,
    /// What is there and could not be read, in words.
    pub unread: Vec<String>,
}

/// What a document is about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// What it is called.
    pub name: &'a str,
    /// What it is.
    pub digest: &'a Digest,
    /// An image, and not some files.
    pub image: bool,
}

/// The document about something that was made at a time.
pub fn document(found: &Found, subject: &Subject<'_>, created: i64) -> Value {
    let (name, manifest) = (subject.name, subject.digest);
    let mut packages = vec![json!({
        "SPDXID": "SPDXRef-Image",
        "name": name,
        "versionInfo": manifest,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "primaryPackagePurpose": if subject.image { "CONTAINER" } else { "OTHER" },
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
    })];
    let mut relationships = vec![json!({
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": "SPDXRef-Image",
    })];
    let mut all = found.packages.clone();
    all.sort();
    all.dedup();
    for one in &all {
        let id = format!("SPDXRef-Package-{}-{}", one.kind, identity(one));
        relationships.push(json!({
            "spdxElementId": "SPDXRef-Image",
            "relationshipType": "CONTAINS",
            "relatedSpdxElement": id,
        }));
        let mut package = json!({
            "SPDXID": id,
            "name": one.name,
            "versionInfo": match one.version.as_str() {
                "" => "NOASSERTION",
                version => version,
            },
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "NOASSERTION",
            "copyrightText": "NOASSERTION",
            "sourceInfo": format!("from /{}", one.file),
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": url(one, found),
            }],
        });
        if let Some(source) = &one.source {
            package["comment"] = json!(format!("built from source package {source}"));
        }
        packages.push(package);
    }
    let mut comment = "Packages as the databases of dpkg, rpm, apk, pacman, Python (dist-info) and Node.js (node_modules) tell them, and \
        modules as programs built by Go do. Files that belong to no package, and what else is compiled into \
        programs, are not listed."
        .to_owned();
    for one in &found.unread {
        comment.push_str(&format!(" Not read: {one}."));
    }
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": format!("urn:rcrun:sbom:{}", manifest.hex()),
        "creationInfo": {
            "created": rfc3339(created),
            "creators": [format!("Tool: rcrun-{}", env!("CARGO_PKG_VERSION"))],
            "comment": comment,
        },
        "packages": packages,
        "relationships": relationships,
    })
}

/// As much of a digest as tells packages apart.
fn identity(package: &Package) -> String {
    let text = format!("{package:?}");
    Digest::of(text.as_bytes()).hex()[..16].to_owned()
}

/// The package URL.
fn url(package: &Package, found: &Found) -> String {
    let Package {
        kind,
        name,
        version,
        ..
    } = package;
    let name = match (*kind, &found.distribution) {
        // Package URLs call its distribution by the company's name.
        ("rpm", Some(distribution)) if distribution == "rhel" => {
            format!("redhat/{}", escaped(name))
        }
        ("deb" | "apk" | "alpm" | "rpm", Some(distribution)) => {
            format!("{}/{}", escaped(distribution), escaped(name))
        }
        ("npm", _) => match name.split_once('/') {
            Some((scope, name)) => format!("{}/{}", escaped(scope), escaped(name)),
            None => escaped(name),
        },
        ("golang", _) => {
            let parts: Vec<String> = name.split('/').map(escaped).collect();
            parts.join("/")
        }
        ("pypi", _) => escaped(&name.to_lowercase().replace('_', "-")),
        _ => escaped(name),
    };
    let mut words = Vec::new();
    if let Some(architecture) = &package.architecture {
        words.push(format!("arch={}", escaped(architecture)));
    }
    let (epoch, version) = match (*kind, version.split_once(':')) {
        ("rpm", Some((epoch, version))) => (Some(epoch), version),
        _ => (None, version.as_str()),
    };
    if let Some(epoch) = epoch {
        words.push(format!("epoch={epoch}"));
    }
    if let (Some(distribution), "deb" | "apk" | "alpm" | "rpm") = (&found.distribution, *kind) {
        let release = found.version.as_ref();
        let release = release.map_or_else(String::new, |version| format!("-{version}"));
        words.push(format!(
            "distro={}",
            escaped(&format!("{distribution}{release}"))
        ));
    }
    let words = match words.is_empty() {
        true => String::new(),
        false => format!("?{}", words.join("&")),
    };
    let version = match version {
        "" => String::new(),
        version => format!("@{}", escaped(version)),
    };
    format!("pkg:{kind}/{name}{version}{words}")
}

/// Paragraphs of a Debian control file: `Name: value` lines; other lines continue a value.
fn paragraphs(text: &str) -> impl Iterator<Item = Vec<(&str, &str)>> {
    text.split("\n\n").map(|paragraph| {
        let lines = paragraph.lines();
        let fields = lines.filter(|line| !line.starts_with([' ', '\t']));
        fields
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name, value.trim()))
            .collect()
    })
}

/// `/var/lib/dpkg/status`, or a file of `status.d`: packages that are installed.
pub fn dpkg(text: &str, file: &str) -> Vec<Package> {
    let mut all = Vec::new();
    for fields in paragraphs(text) {
        let get = |name: &str| {
            let found = fields
                .iter()
                .find(|(field, _)| field.eq_ignore_ascii_case(name));
            found.map(|(_, value)| (*value).to_owned())
        };
        // Files of status.d say no status.
        let installed = get("Status")
            .is_none_or(|status| status.split_whitespace().nth(2) == Some("installed"));
        let (Some(name), Some(version), true) = (get("Package"), get("Version"), installed) else {
            continue;
        };
        all.push(Package {
            kind: "deb",
            source: get("Source").filter(|source| *source != name),
            name,
            version,
            architecture: get("Architecture"),
            file: file.to_owned(),
        });
    }
    all
}

/// `/lib/apk/db/installed`.
pub fn apk(text: &str, file: &str) -> Vec<Package> {
    let mut all = Vec::new();
    for fields in paragraphs(text) {
        let get = |name: &str| {
            let found = fields.iter().find(|(field, _)| *field == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        if let (Some(name), Some(version)) = (get("P"), get("V")) {
            all.push(Package {
                kind: "apk",
                source: get("o").filter(|origin| *origin != name),
                name,
                version,
                architecture: get("A"),
                file: file.to_owned(),
            });
        }
    }
    all
}

/// `/var/lib/pacman/local/NAME-VERSION/desc`: `%FIELD%`, then lines of values until an empty one.
pub fn pacman(text: &str, file: &str) -> Option<Package> {
    let get = |field: &str| {
        let mut lines = text.lines().map(str::trim);
        lines.find(|line| *line == field)?;
        lines
            .next()
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
    };
    let name = get("%NAME%")?;
    Some(Package {
        kind: "alpm",
        version: get("%VERSION%")?,
        architecture: get("%ARCH%"),
        source: get("%BASE%").filter(|base| *base != name),
        name,
        file: file.to_owned(),
    })
}

/// `NAME.dist-info/METADATA`: the fields in front of the description.
pub fn python(text: &str, file: &str) -> Option<Package> {
    let fields = paragraphs(text).next()?;
    let get = |name: &str| {
        let found = fields
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| (*value).to_owned())
    };
    Some(Package {
        kind: "pypi",
        name: get("Name")?,
        version: get("Version")?,
        architecture: None,
        source: None,
        file: file.to_owned(),
    })
}

/// `node_modules/NAME/package.json`.
pub fn node(text: &str, file: &str) -> Option<Package> {
    let value: Value = serde_json::from_str(text).ok()?;
    let get = |name: &str| value[name].as_str().map(str::to_owned);
    Some(Package {
        kind: "npm",
        name: get("name")?,
        version: get("version")?,
        architecture: None,
        source: None,
        file: file.to_owned(),
    })
}

/// A value of os-release.
pub fn os_release(text: &str, name: &str) -> Option<String> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    let value = value.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\n\
        Source: glibc\nVersion: 2.36-9+deb12u9\nDescription: GNU C\n long: text\n\n\
        Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
        Package: half\nStatus: install ok half-installed\nVersion: 1\n\n\
        Package: nameless-version\nStatus: install ok installed\n";

    #[test]
    fn databases() {
        let all = dpkg(STATUS, "var/lib/dpkg/status");
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].source.as_deref(), Some("glibc"));
        let single = dpkg("Package: base-files\nVersion: 12\n", "f");
        assert_eq!(single[0].name, "base-files");
        let installed = "C:Q1x=\nP:musl\nV:1.2.5-r0\nA:x86_64\no:musl\n\nP:libcrypto3\nV:3.3\no:openssl\nF:lib\nR:x\n";
        let all = apk(installed, "lib/apk/db/installed");
        assert_eq!(
            (all[0].source.as_deref(), all[0].version.as_str()),
            (None, "1.2.5-r0")
        );
        assert_eq!(all[1].source.as_deref(), Some("openssl"));
        let metadata = "Metadata-Version: 2.1\nName: Flask_Cors\nVersion: 4.0\n\nName: other\n";
        assert_eq!(python(metadata, "f").unwrap().name, "Flask_Cors");
        assert_eq!(python("x", "f"), None);
        assert_eq!(
            node(r#"{"name":"@a/b","version":"1"}"#, "f").unwrap().name,
            "@a/b"
        );
        for text in ["", "{}", "[1]", r#"{"name":1,"version":"1"}"#] {
            assert_eq!(node(text, "f"), None);
        }
        let desc = "%NAME%\nlibgcc\n\n%VERSION%\n14.2-1\n\n%BASE%\ngcc\n\n%ARCH%\nx86_64\n\n%DEPENDS%\nglibc\n";
        let package = pacman(desc, "f").unwrap();
        assert_eq!(
            (package.name.as_str(), package.version.as_str()),
            ("libgcc", "14.2-1")
        );
        assert_eq!(package.source.as_deref(), Some("gcc"));
        assert_eq!(package.architecture.as_deref(), Some("x86_64"));
        for text in [
            "",
            "%NAME%",
            "%NAME%\nx\n",
            "%VERSION%\n1\n",
            "NAME%\nx\n%VERSION%\n1\n",
        ] {
            assert_eq!(pacman(text, "f"), None, "{text}");
        }
        let release = "NAME=x\nID=debian\nVERSION_ID=\"12\"\n";
        assert_eq!(os_release(release, "ID").as_deref(), Some("debian"));
        assert_eq!(os_release(release, "VERSION_ID").as_deref(), Some("12"));
        assert_eq!(os_release(release, "MISSING"), None);
    }

    #[test]
    fn a_document_has_each_package_once_and_its_url() {
        let mut found = Found {
            packages: dpkg(STATUS, "var/lib/dpkg/status"),
            distribution: Some("debian".into()),
            version: Some("12".into()),
            unread: vec!["/bin/x: written by a Go before 1.18".into()],
        };
        found.packages.extend(found.packages.clone());
        found
            .packages
            .extend(node(r#"{"name":"@a/b","version":"1"}"#, "f"));
        found
            .packages
            .extend(python("Name: Flask_Cors\nVersion: 4.0\n", "f"));
        found
            .packages
            .extend(pacman("%NAME%\na\n%VERSION%\n1:2-1\n", "f"));
        for (kind, name, version) in [
            ("golang", "github.com/a/b c", "v1.2.3+x"),
            ("golang", "own", ""),
            ("rpm", "bash", "2:5.1-1"),
        ] {
            found.packages.push(Package {
                kind,
                name: name.into(),
                version: version.into(),
                architecture: None,
                source: None,
                file: "bin/x".into(),
            });
        }
        let subject = Subject {
            name: "image",
            digest: &Digest::of(b"m"),
            image: true,
        };
        let document = document(&found, &subject, 0);
        let packages = document["packages"].as_array().unwrap();
        let urls: Vec<&str> = packages
            .iter()
            .filter_map(|one| one["externalRefs"][0]["referenceLocator"].as_str())
            .collect();
        assert_eq!(
            urls,
            [
                "pkg:alpm/debian/a@1:2-1?distro=debian-12",
                "pkg:deb/debian/libc6@2.36-9%2Bdeb12u9?arch=amd64&distro=debian-12",
                "pkg:golang/github.com/a/b%20c@v1.2.3%2Bx",
                "pkg:golang/own",
                "pkg:npm/%40a/b@1",
                "pkg:pypi/flask-cors@4.0",
                "pkg:rpm/debian/bash@5.1-1?epoch=2&distro=debian-12",
            ]
        );
        let bash = found.packages.last().unwrap();
        let red_hat = Found {
            distribution: Some("rhel".into()),
            ..Found::default()
        };
        assert_eq!(
            url(bash, &red_hat),
            "pkg:rpm/redhat/bash@5.1-1?epoch=2&distro=rhel"
        );
        let ids: std::collections::HashSet<_> = packages
            .iter()
            .map(|one| one["SPDXID"].to_string())
            .collect();
        assert_eq!(ids.len(), packages.len());
        assert_eq!(document["relationships"].as_array().unwrap().len(), 8);
        assert_eq!(document["creationInfo"]["created"], "1970-01-01T00:00:00Z");
        let comment = document["creationInfo"]["comment"].as_str().unwrap();
        assert!(comment.contains("/bin/x: written by a Go before 1.18"));
    }
}
