//! Discovery requests, decoded without copying.
//!
//! An Envoy repeats all its names in every state-of-the-world ACK, a thousand of them for a thousand
//! clusters. To decode those into a thousand strings for each proxy and push would cost more than the
//! push. So the names stay in the message's own bytes (`names`), and the usual case, the same list as
//! before, is recognised by one comparison. Field numbers are those of
//! `envoy/service/discovery/v3/discovery.proto`.

use bytes::Bytes;
use prost::DecodeError;
use prost::encoding::WireType;
use thiserror::Error;

use crate::peer_text;
use crate::subscription::Subscription;

pub mod fields;
mod names;

use fields::{for_each_field, map_entry, next_field, utf8};
use names::RepeatedField;
pub use names::{InitialVersions, Names};

/// Bytes of a `type_url`: those of Envoy have 100 at most.
const MAX_TYPE_URL: usize = 256;

/// Bytes of a version or a nonce that are read: ours have 16, so a longer one is foreign.
const MAX_TOKEN: usize = 64;

/// Bytes of a NACK's text: Envoy's text about a dozen resources fits.
pub const MAX_NACK_TEXT: usize = 4096;

/// Tag of a name in a `DiscoveryRequest`: field 3, length-delimited.
const SOTW_NAME: u8 = 3 << 3 | WireType::LengthDelimited as u8;

/// Why bytes are not a discovery request.
#[derive(Debug, Error)]
pub enum MalformedRequest {
    #[error("not a valid discovery request: a field is longer than the message")]
    Truncated,
    #[error("not a valid discovery request: a string is not UTF-8")]
    NotUtf8,
    #[error("not a valid discovery request: type_url has {len} bytes, the limit is {limit}")]
    TypeUrlTooLong { len: usize, limit: usize },
    #[error("not a valid discovery request: {0}")]
    Protobuf(#[from] DecodeError),
}

/// The fields that both variants have.
#[derive(Clone, Debug, Default)]
pub struct Common {
    /// Encoded `Node`; usually only on a stream's first request (rule 15).
    pub node: Option<Bytes>,
    /// Empty on single-type services.
    pub type_url: String,
    pub response_nonce: String,
    /// The text of `error_detail`, truncated to [`MAX_NACK_TEXT`]; its presence alone makes a NACK
    /// (rule 2).
    pub error: Option<String>,
}

/// `DiscoveryRequest`
#[derive(Clone, Debug, Default)]
pub struct SotwRequest {
    pub common: Common,
    pub version_info: String,
    pub names: Names,
}

/// `DeltaDiscoveryRequest`
#[derive(Clone, Debug, Default)]
pub struct DeltaRequest {
    pub common: Common,
    pub subscribe: Names,
    pub unsubscribe: Names,
    /// Name and version of each resource that the client has already (rule 13).
    pub initial_versions: InitialVersions,
}

/// A request of either variant.
#[derive(Clone, Debug)]
pub enum DiscoveryRequest {
    Sotw(SotwRequest),
    Delta(DeltaRequest),
}

impl DiscoveryRequest {
    pub fn common(&self) -> &Common {
        match self {
            Self::Sotw(request) => &request.common,
            Self::Delta(request) => &request.common,
        }
    }

    /// How many names must be looked up one by one: none if the list is known.
    pub fn names(&self) -> usize {
        match self {
            Self::Sotw(request) if request.names.known().is_some() => 0,
            Self::Sotw(request) => request.names.len(),
            Self::Delta(request) => {
                let (subscribe, unsubscribe) = (&request.subscribe, &request.unsubscribe);
                subscribe.len() + unsubscribe.len() + request.initial_versions.len()
            }
        }
    }

    /// Decodes a request of the variant that the called method has.
    ///
    /// # Errors
    /// The bytes are not such a message.
    pub fn decode(message: Bytes, delta: bool) -> Result<Self, MalformedRequest> {
        Self::decode_with_known_names(message, delta, [])
    }

    /// The same. The list of names is compared with those that `known` subscriptions were made of, which
    /// is cheaper than to read the names.
    ///
    /// # Errors
    /// The bytes are not such a message.
    pub fn decode_with_known_names<'a>(
        message: Bytes,
        delta: bool,
        known: impl IntoIterator<Item = &'a Subscription>,
    ) -> Result<Self, MalformedRequest> {
        if delta {
            DeltaRequest::decode(message).map(Self::Delta)
        } else {
            SotwRequest::decode(message, known.into_iter()).map(Self::Sotw)
        }
    }
}

impl SotwRequest {
    fn decode<'a>(
        message: Bytes,
        known: impl Iterator<Item = &'a Subscription>,
    ) -> Result<Self, MalformedRequest> {
        let mut request = Self::default();
        let common = &mut request.common;
        let mut names = RepeatedField::new();
        let mut known = Some(known);
        let mut rest = &message[..];
        loop {
            if rest.first() == Some(&SOTW_NAME)
                && let Some(known) = known.take()
            {
                names.push_known_list(&message, &mut rest, known);
            }
            let start = message.len() - rest.len();
            let Some((number, content)) = next_field(&mut rest)? else { break };
            match number {
                1 => request.version_info = token(content)?,
                2 => common.node = Some(message.slice_ref(content)),
                3 => names.push(&message, start..message.len() - rest.len()),
                4 => common.type_url = type_url(content)?,
                5 => common.response_nonce = token(content)?,
                6 => common.error = Some(status_text(content)?),
                _ => {}
            }
        }
        request.names = names.into_names(&message)?;
        Ok(request)
    }
}

impl DeltaRequest {
    fn decode(message: Bytes) -> Result<Self, MalformedRequest> {
        let mut request = Self::default();
        let common = &mut request.common;
        let [mut subscribe, mut unsubscribe, mut initial] = [const { RepeatedField::new() }; 3];
        for_each_field(&message, |number, field, content| {
            match number {
                1 => common.node = Some(message.slice_ref(content)),
                2 => common.type_url = type_url(content)?,
                3 => subscribe.push(&message, field),
                4 => unsubscribe.push(&message, field),
                5 => {
                    map_entry(content)?;
                    initial.push(&message, field);
                }
                6 => common.response_nonce = token(content)?,
                7 => common.error = Some(status_text(content)?),
                _ => {}
            }
            Ok(())
        })?;
        request.subscribe = subscribe.into_names(&message)?;
        request.unsubscribe = unsubscribe.into_names(&message)?;
        let len = initial.len;
        request.initial_versions = InitialVersions { fields: initial.take_bytes(&message), len };
        Ok(request)
    }
}

/// A version or a nonce.
fn token(content: &[u8]) -> Result<String, MalformedRequest> {
    utf8(content).map(|text| peer_text::cut(text, MAX_TOKEN).into_owned())
}

fn type_url(content: &[u8]) -> Result<String, MalformedRequest> {
    let len = content.len();
    if len > MAX_TYPE_URL {
        return Err(MalformedRequest::TypeUrlTooLong { len, limit: MAX_TYPE_URL });
    }
    utf8(content).map(str::to_owned)
}

/// The message of a `google.rpc.Status`. Its code is not reliable: Envoy sends 13, gRPC 3 (rule 2). A
/// status with an empty message is still a NACK.
fn status_text(content: &[u8]) -> Result<String, MalformedRequest> {
    let mut text = &b""[..];
    for_each_field(content, |number, _, content| {
        if number == 2 {
            text = content;
        }
        Ok(())
    })?;
    Ok(peer_text::cut_lossy(text, MAX_NACK_TEXT))
}

#[cfg(test)]
mod tests;
