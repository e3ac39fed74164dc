//! Credentials of a pull, from the fields of a request. Pure.
//!
//! What a request brings is for the registry of the image's name, and goes nowhere else: not to a mirror,
//! and to no registry at all if it names another one as `server_address`.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rcrun_image::reference::{DEFAULT_HOST, Reference};
use rcrun_image::registry::{Credential, Secret};

use crate::proto::v1::AuthConfig;
use crate::{Error, Result};

/// Docker's other names for its registry, of which credentials speak.
const DOCKER: [&str; 3] = ["index.docker.io", "registry-1.docker.io", "www.docker.io"];

/// The credential for an image's registry; none for anonymous pulls.
pub(crate) fn credential(auth: &AuthConfig, image: &Reference) -> Result<Option<Credential>> {
    let server = auth.server_address.trim();
    if !server.is_empty() && host(server) != image.host() {
        tracing::debug!(image = %image, "the credentials are for another registry");
        return Ok(None);
    }
    let token = |text: &str| Secret::new(text);
    if !auth.identity_token.is_empty() {
        return Ok(Some(Credential::Identity {
            user: auth.username.clone(),
            token: token(&auth.identity_token),
        }));
    }
    if !auth.registry_token.is_empty() {
        return Ok(Some(Credential::Registry {
            token: token(&auth.registry_token),
        }));
    }
    if !auth.username.is_empty() || !auth.password.is_empty() {
        return basic(&auth.username, &auth.password).map(Some);
    }
    match auth.auth.trim() {
        "" => Ok(None),
        encoded => {
            let wrong = || Error::invalid("the field auth is not base64 of USER:PASSWORD");
            let decoded = BASE64_STANDARD.decode(encoded).map_err(|_| wrong())?;
            let decoded = String::from_utf8(decoded).map_err(|_| wrong())?;
            let (user, password) = decoded.split_once(':').ok_or_else(wrong)?;
            // Some tools pad the password.
            basic(user, password.trim_end_matches('\0')).map(Some)
        }
    }
}

fn basic(user: &str, password: &str) -> Result<Credential> {
    // In a header the first colon ends the name, and a line's end would begin another header.
    if user.contains(':')
        || [user, password]
            .iter()
            .any(|text| text.contains(['\r', '\n', '\0']))
    {
        return Err(Error::invalid(
            "the credentials have a character that no header can have",
        ));
    }
    Ok(Credential::Basic {
        user: user.to_owned(),
        password: Secret::new(password),
    })
}

/// The registry that an address of docker's files means: perhaps with a scheme, and a path.
fn host(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or(rest);
    match DOCKER.contains(&host) {
        true => DEFAULT_HOST,
        false => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(auth: &AuthConfig) -> Result<Option<Credential>> {
        credential(auth, &"reg.lan:5000/a:1".parse().unwrap())
    }

    fn user(user: &str, password: &str) -> Option<Credential> {
        Some(Credential::Basic {
            user: user.to_owned(),
            password: Secret::new(password),
        })
    }

    #[test]
    fn every_kind_of_credential() {
        let text = |text: &str| text.to_owned();
        assert_eq!(of(&AuthConfig::default()).unwrap(), None);
        let name = AuthConfig {
            username: text("u"),
            password: text("p:w"),
            ..Default::default()
        };
        assert_eq!(of(&name).unwrap(), user("u", "p:w"));
        let encoded = |plain: &str| AuthConfig {
            auth: BASE64_STANDARD.encode(plain),
            ..Default::default()
        };
        assert_eq!(of(&encoded("u:p:w\0\0")).unwrap(), user("u", "p:w"));
        assert_eq!(of(&encoded("u:")).unwrap(), user("u", ""));
        let identity = AuthConfig {
            identity_token: text("t"),
            ..name.clone()
        };
        assert_eq!(
            of(&identity).unwrap(),
            Some(Credential::Identity {
                user: text("u"),
                token: Secret::new("t")
            })
        );
        let registry = AuthConfig {
            registry_token: text("t"),
            ..Default::default()
        };
        assert_eq!(
            of(&registry).unwrap(),
            Some(Credential::Registry {
                token: Secret::new("t")
            })
        );
    }

    #[test]
    fn credentials_go_to_the_registry_that_they_are_for() {
        let with = |server: &str| AuthConfig {
            username: "u".into(),
            server_address: server.into(),
            ..Default::default()
        };
        for (server, sent) in [
            ("", true),
            ("reg.lan:5000", true),
            ("https://reg.lan:5000/v2/", true),
            ("reg.lan", false),
            ("https://reg.lan:5001", false),
            ("https://index.docker.io/v1/", false),
            ("evil.lan/reg.lan:5000", false),
        ] {
            assert_eq!(of(&with(server)).unwrap().is_some(), sent, "{server}");
        }
        let hub = credential(
            &with("https://index.docker.io/v1/"),
            &"a:1".parse().unwrap(),
        );
        assert!(hub.unwrap().is_some());
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        for (username, password, auth) in [
            ("", "", "geheim"),
            ("", "", "Z2VoZWlt"),
            ("geheim:x", "", ""),
            ("u", "geheim\r\nX: y", ""),
            ("u\0", "geheim", ""),
        ] {
            let auth = AuthConfig {
                username: username.into(),
                password: password.into(),
                auth: auth.into(),
                ..Default::default()
            };
            let error = of(&auth).unwrap_err();
            assert!(
                !format!("{}", error.chain()).contains("geheim"),
                "{error:?}"
            );
        }
    }
}
