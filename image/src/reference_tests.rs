use super::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn normalised_as_docker_does() {
    let at = format!("@sha256:{HEX}");
    let cases = [
        ("debian", "docker.io/library/debian:latest", "debian:latest"),
        ("debian:12", "docker.io/library/debian:12", "debian:12"),
        (
            "docker.io/debian",
            "docker.io/library/debian:latest",
            "debian:latest",
        ),
        (
            "index.docker.io/debian",
            "docker.io/library/debian:latest",
            "debian:latest",
        ),
        (
            "library/debian",
            "docker.io/library/debian:latest",
            "debian:latest",
        ),
        ("a/b", "docker.io/a/b:latest", "a/b:latest"),
        (
            "library/a/b",
            "docker.io/library/a/b:latest",
            "library/a/b:latest",
        ),
        ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
        (
            "localhost:5000/a",
            "localhost:5000/a:latest",
            "localhost:5000/a:latest",
        ),
        ("Host/a", "Host/a:latest", "Host/a:latest"),
        (
            "reg.lan/a/b/c:x_Y.z-1",
            "reg.lan/a/b/c:x_Y.z-1",
            "reg.lan/a/b/c:x_Y.z-1",
        ),
        ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
        ("[fd00::1]/a", "[fd00::1]/a:latest", "[fd00::1]/a:latest"),
        (
            "10.0.0.1:80/a",
            "10.0.0.1:80/a:latest",
            "10.0.0.1:80/a:latest",
        ),
        (
            "a__b/c---d/e.f",
            "docker.io/a__b/c---d/e.f:latest",
            "a__b/c---d/e.f:latest",
        ),
        (
            "localhost",
            "docker.io/library/localhost:latest",
            "localhost:latest",
        ),
        ("a:5000", "docker.io/library/a:5000", "a:5000"),
    ];
    let whole = "docker.io/a.b/c:latest";
    for (typed, full, familiar) in cases.into_iter().chain([(whole, whole, whole)]) {
        let reference: Reference = typed.parse().unwrap();
        assert_eq!(reference.to_string(), full, "{typed}");
        assert_eq!(reference.familiar(), familiar, "{typed}");
        assert_eq!(full.parse::<Reference>().unwrap(), reference);
        assert_eq!(familiar.parse::<Reference>().unwrap(), reference);
    }
    for typed in [format!("debian{at}"), format!("debian:12{at}")] {
        let reference: Reference = typed.parse().unwrap();
        assert_eq!(reference.familiar(), typed);
        assert_eq!(reference.manifest_name(), at[1..]);
    }
}

#[test]
fn refused_in_words() {
    let long_name = format!("reg.lan/{}", "a".repeat(MAX_NAME));
    let long_tag = format!("a:{}", "t".repeat(MAX_TAG + 1));
    let cases = [
        ("", "it is empty"),
        ("Debian", "must be in lower case"),
        ("a/B", "must be in lower case"),
        ("a//b", "invalid component \"\""),
        ("/a", "invalid component \"\""),
        ("a/", "invalid component \"\""),
        ("-a", "invalid component \"-a\""),
        ("a-", "invalid component \"a-\""),
        ("a..b", "invalid component"),
        ("a___b", "invalid component"),
        ("a._b", "invalid component"),
        ("../a", "the host \"..\" is not a host name"),
        ("a/../b", "invalid component \"..\""),
        ("a b", "invalid component"),
        ("a\0b", "invalid component"),
        ("ä", "invalid component"),
        ("a:", "the tag is empty"),
        ("a:.x", "the tag begins with"),
        ("a:x/y", "the host \"a:x\" has no valid port"),
        ("a:ü", "the tag begins with"),
        ("a:b\n", "the tag has an invalid character"),
        ("reg.lan:99999/a", "no valid port"),
        ("reg.lan:+1/a", "no valid port"),
        ("[::g]/a", "not an IPv6 address"),
        ("[::1/a", "no closing bracket"),
        ("[::1]x/a", "no valid port"),
        ("-x.lan/a", "not a host name"),
        ("a@sha256:12", "wrong length"),
        ("a@md5:12", "neither sha256 nor sha512"),
        ("a@", "no algorithm"),
        (HEX, "64 hexadecimal digits"),
        (&long_name, "longer than 255 bytes"),
        (&long_tag, "longer than 128 bytes"),
    ];
    for (typed, words) in cases {
        let error = typed.parse::<Reference>().unwrap_err().chain().to_string();
        assert!(error.contains(words), "{typed:?}: {error}");
        assert!(error.starts_with("invalid image reference"), "{error}");
    }
    let endless = "a/".repeat(100_000);
    let error = endless.parse::<Reference>().unwrap_err().to_string();
    assert!(error.len() < 200, "{error}");
}
