//! Paths of the image, as text: Go's `path` package and BuildKit's `util/system`, for Linux.

/// Removes `.`, `..` and doubled slashes; a rooted path never leaves its root. Nothing is `.`.
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&last) if last != ".." => drop(parts.pop()),
                _ if rooted => {}
                _ => parts.push(".."),
            },
            part => parts.push(part),
        }
    }
    let text = parts.join("/");
    match (rooted, text.is_empty()) {
        (true, _) => format!("/{text}"),
        (false, true) => ".".to_owned(),
        (false, false) => text,
    }
}

/// A path of the image, absolute and clean: `path` is relative to `directory`.
pub(crate) fn absolute(directory: &str, path: &str) -> String {
    match path.starts_with('/') {
        true => clean(path),
        false => clean(&format!("/{directory}/{path}")),
    }
}

/// The same, with a slash at the end where `path` has one, or ends in a dot: what is copied goes into it.
pub(crate) fn destination(directory: &str, path: &str) -> String {
    let path = match path {
        "" | "." => "./",
        other => other,
    };
    let into = path.ends_with('/') || path.ends_with("/.");
    let mut absolute = absolute(directory, path);
    if into && !absolute.ends_with('/') {
        absolute.push('/');
    }
    absolute
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (path, expected) in [
            ("", "."),
            ("/", "/"),
            ("//a//b/", "/a/b"),
            ("a/../..", ".."),
            ("/../a/./b/..", "/a"),
            ("./a", "a"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn destinations_keep_their_slash() {
        for (directory, path, expected) in [
            ("/w", "", "/w/"),
            ("/w", ".", "/w/"),
            ("/w", "./", "/w/"),
            ("/w", "a", "/w/a"),
            ("/w", "a/", "/w/a/"),
            ("/w", "a/.", "/w/a/"),
            ("/w", "/a/../b", "/b"),
            ("/w", "../..", "/"),
            ("/", "/", "/"),
            ("", "a", "/a"),
        ] {
            assert_eq!(destination(directory, path), expected, "{directory} {path}");
        }
    }
}
