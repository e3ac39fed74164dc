//! What the scripted registry answers when nothing goes wrong.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::http::unescape;
use super::{Access, Answer, Fault, Head, Key, Shared, State};
use crate::Digest;
use crate::document::media;

pub(super) fn answer(
    shared: &Shared,
    head: &Head,
    body: Vec<u8>,
    whole: bool,
    fault: Option<&Fault>,
) -> Answer {
    let path = head.path().to_owned();
    if path == "/token" {
        return token(shared, head, &body);
    }
    let Some(rest) = path.strip_prefix("/v2/") else {
        return error(404, "NOT_FOUND", "no such path");
    };
    if let Some(refusal) = refusal(shared, head, rest) {
        return refusal;
    }
    if rest.is_empty() {
        return Answer::new(200, "{}");
    }
    let mut state = shared.state();
    if let Some((name, reference)) = rest.split_once("/manifests/") {
        return manifest(&mut state, head, (name.into(), reference.into()), &body);
    }
    if let Some((name, id)) = rest.split_once("/blobs/uploads/") {
        return upload(shared, &mut state, head, name, id, body, whole);
    }
    if let Some((name, digest)) = rest.split_once("/blobs/") {
        return blob(&state, head, &(name.into(), digest.into()), fault);
    }
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return tags(&state, head, name);
    }
    if let Some((name, digest)) = rest.split_once("/referrers/") {
        return referrers(&state, name, digest);
    }
    error(404, "NOT_FOUND", "no such path")
}

pub(super) fn error(status: u16, code: &str, message: &str) -> Answer {
    let body = json!({"errors": [{"code": code, "message": message}]});
    Answer::new(status, body.to_string()).with("Content-Type", "application/json")
}

fn basic(user: &str, password: &str) -> String {
    format!(
        "Basic {}",
        BASE64_STANDARD.encode(format!("{user}:{password}"))
    )
}

/// The answer to who may not do this.
fn refusal(shared: &Shared, head: &Head, rest: &str) -> Option<Answer> {
    let sent = head.header("authorization");
    let unauthorized = |challenge: &str| {
        let answer = error(401, "UNAUTHORIZED", "authentication required");
        Some(answer.with("WWW-Authenticate", challenge))
    };
    match &shared.setup.access {
        Access::Open => None,
        Access::Basic(user, password) => match sent == Some(basic(user, password).as_str()) {
            true => None,
            false => unauthorized("Basic realm=\"test\""),
        },
        Access::Token { realm, .. } => {
            let name = repository(rest);
            let action = match head.method.as_str() {
                "GET" | "HEAD" => "pull",
                "DELETE" => "delete",
                _ => "push",
            };
            let given = sent.and_then(|sent| sent.strip_prefix("Bearer "));
            let state = shared.state();
            let scope = given.and_then(|token| state.tokens.get(token));
            let mounted = head
                .query("from")
                .is_none_or(|from| scope.is_some_and(|scope| allows(scope, &from, "pull")));
            if scope
                .is_some_and(|scope| name.is_empty() || (allows(scope, name, action) && mounted))
            {
                return None;
            }
            let scheme = if shared.setup.tls.is_some() {
                "https"
            } else {
                "http"
            };
            let own = format!("{scheme}://{}/token", shared.address);
            let realm = realm.as_ref().unwrap_or(&own);
            let scope = match name {
                "" => String::new(),
                name => format!(",scope=\"repository:{name}:{action}\""),
            };
            unauthorized(&format!("Bearer realm=\"{realm}\",service=\"test\"{scope}"))
        }
    }
}

fn repository(rest: &str) -> &str {
    for part in ["/manifests/", "/blobs/", "/tags/", "/referrers/"] {
        if let Some((name, _)) = rest.split_once(part) {
            return name;
        }
    }
    ""
}

fn allows(scope: &str, name: &str, action: &str) -> bool {
    scope.split(' ').any(|one| {
        let mut parts = one.split(':').skip(1);
        parts.next() == Some(name)
            && parts
                .next()
                .is_some_and(|actions| actions.split(',').any(|one| one == action))
    })
}

fn token(shared: &Shared, head: &Head, body: &[u8]) -> Answer {
    let Access::Token {
        user,
        identity,
        life,
        ..
    } = &shared.setup.access
    else {
        return error(404, "NOT_FOUND", "no tokens here");
    };
    let scope = if head.method == "POST" {
        let body = String::from_utf8_lossy(body).into_owned();
        let field = |name: &str| {
            let mut pairs = body.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(known, _)| *known == name)
                .map(|(_, value)| unescape(value))
        };
        let fits = field("grant_type").as_deref() == Some("refresh_token")
            && identity.is_some()
            && field("refresh_token").as_deref() == *identity;
        if !fits {
            return error(401, "UNAUTHORIZED", "wrong identity token");
        }
        field("scope").unwrap_or_default()
    } else {
        let sent = head.header("authorization");
        if user.is_some_and(|(user, password)| sent != Some(basic(user, password).as_str())) {
            return error(401, "UNAUTHORIZED", "wrong user or password");
        }
        let query = head.target.split_once('?').map_or("", |(_, query)| query);
        let scopes = query
            .split('&')
            .filter_map(|pair| pair.strip_prefix("scope="));
        scopes.map(unescape).collect::<Vec<_>>().join(" ")
    };
    let token = format!("token-{}", shared.number());
    shared.state().tokens.insert(token.clone(), scope);
    let more = if life.is_empty() {
        String::new()
    } else {
        format!(",{life}")
    };
    Answer::new(200, format!("{{\"token\":\"{token}\"{more}}}"))
}

fn manifest(state: &mut State, head: &Head, key: Key, body: &[u8]) -> Answer {
    match head.method.as_str() {
        "PUT" => {
            let digest = Digest::of(body).to_string();
            let kind = head.header("content-type").unwrap_or_default().to_owned();
            for name in [key.1, digest.clone()] {
                state
                    .manifests
                    .insert((key.0.clone(), name), (kind.clone(), body.to_vec()));
            }
            Answer::new(201, "").with("Docker-Content-Digest", digest)
        }
        "DELETE" => match state.manifests.remove(&key) {
            Some(_) => Answer::new(202, ""),
            None => error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        },
        _ => match state.manifests.get(&key) {
            Some((kind, bytes)) => Answer::new(200, bytes.clone())
                .with("Content-Type", kind)
                .with("Docker-Content-Digest", Digest::of(bytes)),
            None => error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        },
    }
}

fn blob(state: &State, head: &Head, key: &Key, fault: Option<&Fault>) -> Answer {
    let found = state
        .blobs
        .get(&key.1)
        .filter(|_| state.owned.contains(key));
    let Some(bytes) = found else {
        return error(404, "BLOB_UNKNOWN", "blob unknown to registry");
    };
    let mut answer = Answer::new(200, Vec::new());
    (answer.body, answer.range) = (bytes.clone(), 0..bytes.len());
    let wanted = head.header("range").and_then(|text| {
        let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?))
    });
    let Some((mut first, last)) = wanted.filter(|_| !matches!(fault, Some(Fault::NoRange))) else {
        return answer;
    };
    if first >= bytes.len() {
        return error(416, "RANGE_INVALID", "not that range");
    }
    if matches!(fault, Some(Fault::WrongRange)) {
        first += 1;
    }
    let end = (last + 1).min(bytes.len());
    answer.status = 206;
    answer.range = first..end;
    answer.with(
        "Content-Range",
        format!("bytes {first}-{}/{}", end - 1, bytes.len()),
    )
}

fn upload(
    shared: &Shared,
    state: &mut State,
    head: &Head,
    name: &str,
    id: &str,
    body: Vec<u8>,
    whole: bool,
) -> Answer {
    let location = |id: &str| format!("/v2/{name}/blobs/uploads/{id}?state=x");
    if head.method == "POST" {
        if let (Some(digest), Some(from)) = (head.query("mount"), head.query("from"))
            && state.owned.contains(&(from, digest.clone()))
        {
            state.owned.insert((name.to_owned(), digest));
            return Answer::new(201, "");
        }
        let id = format!("upload-{}", shared.number());
        state.uploads.insert(id.clone(), Vec::new());
        let mut answer = Answer::new(202, "")
            .with("Location", location(&id))
            .with("Range", "0-0");
        if let Some(chunk) = shared.setup.chunk {
            answer = answer.with("OCI-Chunk-Min-Length", chunk);
        }
        return answer;
    }
    let Some(bytes) = state.uploads.get_mut(id) else {
        return error(404, "BLOB_UPLOAD_UNKNOWN", "upload unknown");
    };
    let from = head
        .header("content-range")
        .and_then(|text| text.split_once('-')?.0.parse().ok());
    if from.is_some_and(|from: usize| from != bytes.len()) {
        return error(416, "RANGE_INVALID", "chunk out of order");
    }
    bytes.extend(body);
    let range = format!("0-{}", bytes.len().saturating_sub(1));
    match head.method.as_str() {
        "PUT" if whole => {
            let wanted = head.query("digest").unwrap_or_default();
            if Digest::of(bytes).to_string() != wanted {
                return error(
                    400,
                    "DIGEST_INVALID",
                    "provided digest did not match uploaded content",
                );
            }
            let bytes = Arc::new(std::mem::take(bytes));
            state.uploads.remove(id);
            state.blobs.insert(wanted.clone(), bytes);
            state.owned.insert((name.to_owned(), wanted));
            Answer::new(201, "")
        }
        "GET" => Answer::new(204, "")
            .with("Location", location(id))
            .with("Range", range),
        _ => Answer::new(202, "")
            .with("Location", location(id))
            .with("Range", range),
    }
}

/// Two tags a page.
fn tags(state: &State, head: &Head, name: &str) -> Answer {
    let last = head.query("last").unwrap_or_default();
    let tags: Vec<&String> = state
        .manifests
        .keys()
        .filter(|(repository, tag)| repository == name && !tag.contains(':') && *tag > last)
        .map(|(_, tag)| tag)
        .collect();
    let page = &tags[..tags.len().min(2)];
    let answer = Answer::new(200, json!({"name": name, "tags": page}).to_string());
    match page.last() {
        Some(last) if tags.len() > 2 => answer.with(
            "Link",
            format!("</v2/{name}/tags/list?n=2&last={last}>; rel=\"next\""),
        ),
        _ => answer,
    }
}

fn referrers(state: &State, name: &str, digest: &str) -> Answer {
    let mut found = Vec::new();
    for ((repository, tag), (kind, bytes)) in &state.manifests {
        let value: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
        if repository == name && tag.contains(':') && value["subject"]["digest"] == digest {
            found.push(json!({"mediaType": kind, "digest": tag, "size": bytes.len()}));
        }
    }
    let index = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": found});
    Answer::new(200, index.to_string()).with("Content-Type", media::OCI_INDEX)
}
