//! The URL of an issuer, as `--token-issuer` and discovery documents have it.

use http::Uri;
use http::uri::{PathAndQuery, Scheme};

/// An https URL without user, query and fragment (OpenID Connect Discovery 1.0, 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerUrl(String);

impl IssuerUrl {
    /// Reads a URL as it stands; tokens have the same letters as their issuer.
    ///
    /// # Errors
    /// What of it is not allowed.
    pub fn read(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("{text:?} is no URL: {error}"))?;
        if uri.scheme() != Some(&Scheme::HTTPS) {
            return Err(format!(
                "{text:?} does not begin with https://: keys that came over a plain connection could be \
                 anybody's"
            ));
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') || uri.query().is_some() || text.contains('#') {
            return Err(format!("{text:?} must have no user, query or fragment"));
        }
        Ok(Self(text.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Scheme and host, and the path.
    pub(super) fn into_parts(self) -> (Uri, String) {
        let mut parts = self.0.parse::<Uri>().unwrap_or_default().into_parts();
        let path = parts.path_and_query.replace(PathAndQuery::from_static("/"));
        let path = path.map_or_else(|| "/".to_owned(), |path| path.to_string());
        (Uri::from_parts(parts).unwrap_or_default(), path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_an_https_url() {
        for good in ["https://issuer.example", "https://[::1]:6443/id/x", "https://a.b/"] {
            assert_eq!(IssuerUrl::read(good).map(|url| url.0), Ok(good.to_owned()));
        }
        for (bad, why) in [
            ("http://issuer.example", "https"),
            ("issuer.example", "https"),
            ("https://", "no URL"),
            ("https://user@issuer.example", "user"),
            ("https://issuer.example?x=1", "query"),
            ("https://issuer.example/#x", "fragment"),
        ] {
            let error = IssuerUrl::read(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn parts_are_scheme_and_host_and_the_path() {
        let (origin, path) = IssuerUrl::read("https://a.b:1/c/d").unwrap().into_parts();
        assert_eq!((origin.to_string().as_str(), path.as_str()), ("https://a.b:1/", "/c/d"));
    }
}
