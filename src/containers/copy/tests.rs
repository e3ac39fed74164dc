use super::*;

#[test]
fn dockers_rules() {
    use Destination as D;
    use Place::{Merged, Named, Within};
    use Source as S;
    for (source, destination, slash, expected) in [
        (S::File, D::Missing, false, Some(Named)),
        (S::File, D::Missing, true, None),
        (S::File, D::File, false, Some(Named)),
        (S::File, D::File, true, None),
        (S::File, D::Directory, false, Some(Within)),
        (S::File, D::Directory, true, Some(Within)),
        (S::Directory, D::Missing, false, Some(Named)),
        (S::Directory, D::Missing, true, Some(Named)),
        (S::Directory, D::File, false, None),
        (S::Directory, D::Directory, false, Some(Within)),
        (S::Contents, D::Missing, false, Some(Named)),
        (S::Contents, D::File, false, None),
        (S::Contents, D::Directory, true, Some(Merged)),
    ] {
        let found = place(source, destination, slash).ok();
        assert_eq!(found, expected, "{source:?} {destination:?} {slash}");
    }
}

#[test]
fn paths() {
    for (path, parent, name, slash, contents) in [
        ("/a/b", "/a", Some("b"), false, false),
        ("/a/b/", "/a", Some("b"), true, false),
        ("/a/b/.", "/a", Some("b"), true, true),
        ("a", "", Some("a"), false, false),
        ("/a", "", Some("a"), false, false),
        ("a/..", "a/..", None, true, true),
        ("/", "", None, true, true),
        ("/.", "", None, true, true),
        (".", "", None, true, true),
        ("..", "..", None, true, true),
        ("", "", None, true, true),
    ] {
        let expected = Split {
            parent,
            name,
            slash,
            contents,
        };
        assert_eq!(split(path), expected, "{path}");
    }
}
