//! Discovery requests as they come off the wire, decoded without copying.
//!
//! An Envoy repeats all its names in every state-of-the-world ACK, a thousand of them for a
//! thousand clusters. Decoding those into a thousand strings for each proxy and push would cost
//! more than the push; so the names stay in the message's own bytes, and a hash over them tells
//! the usual case, "the same as before", in one pass. Field numbers are those of
//! `envoy/service/discovery/v3/discovery.proto`.

use std::ops::Range;

use bytes::Bytes;
use prost::DecodeError;
use prost::encoding::{WireType, decode_key, decode_varint, skip_field};
use thiserror::Error;

use super::peer_text;
use crate::subscription::Subscription;

/// Bytes of a type's URL: those of Envoy have 100 at most.
const MAX_TYPE_URL: usize = 256;

/// Bytes of a version or a nonce that are looked at: ours have 16, and what is longer is foreign.
const MAX_TOKEN: usize = 64;

/// Bytes of a NACK's text: Envoy's words for a dozen resources have room.
pub const MAX_NACK_TEXT: usize = 4096;

/// Tag of a name in a `DiscoveryRequest`: number 3, length-delimited.
const SOTW_NAME: u8 = 3 << 3 | 2;

/// Bytes that are no discovery request.
#[derive(Debug, Error)]
#[error("not a valid discovery request: {0}")]
pub struct Malformed(String);

impl Malformed {
    pub(super) fn too_short() -> Self {
        Self("a field is longer than the message".to_owned())
    }
}

impl From<DecodeError> for Malformed {
    fn from(error: DecodeError) -> Self {
        Self(error.to_string())
    }
}

/// Strings of a repeated field, in the order sent, still in the request's bytes.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The fields with their tags and lengths, one after the other.
    fields: Bytes,
    len: usize,
    /// The subscription that was made of this very list.
    known: Option<u64>,
}

impl Names {
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let mut rest = &self.fields[..];
        // Both were checked when the request was decoded.
        std::iter::from_fn(move || {
            let (_, content) = next_field(&mut rest).ok()??;
            Some(std::str::from_utf8(content).unwrap_or_default())
        })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes they came in.
    pub fn as_sent(&self) -> &[u8] {
        &self.fields
    }

    /// [`Subscription::id`] of one that was made of this very list, if that was noticed.
    pub fn known(&self) -> Option<u64> {
        self.known
    }

    /// Equal lists in equal order have equal hashes.
    pub fn hash(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&self.fields)
    }
}

impl<'a> FromIterator<&'a str> for Names {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Self {
        let (mut fields, mut len) = (Vec::new(), 0);
        for name in names {
            prost::encoding::encode_key(3, WireType::LengthDelimited, &mut fields);
            prost::encoding::encode_varint(name.len() as u64, &mut fields);
            fields.extend_from_slice(name.as_bytes());
            len += 1;
        }
        Self { fields: fields.into(), len, known: None }
    }
}

/// Where in a message the names stand: usually in one row. Those in several rows are put together,
/// so that a message of a million rows costs no more than its own size.
struct Run {
    row: Range<usize>,
    /// The rows before that one.
    before: Vec<u8>,
    len: usize,
    /// The subscription that was made of the first ones, and how many those are.
    known: Option<(u64, usize)>,
}

impl Run {
    const fn new() -> Self {
        Self { row: 0..0, before: Vec::new(), len: 0, known: None }
    }

    #[inline]
    fn push(&mut self, message: &[u8], field: Range<usize>) {
        self.len += 1;
        if self.row.end != field.start {
            self.before.extend_from_slice(message.get(self.row.clone()).unwrap_or_default());
            self.row.start = field.start;
        }
        self.row.end = field.end;
    }

    /// A list that is known at the front of `rest`, which is the end of a message: takes it in one
    /// go, which is what an ACK for a thousand clusters costs.
    fn take_known<'a>(
        &mut self,
        message: &[u8],
        rest: &mut &[u8],
        mut known: impl Iterator<Item = &'a Subscription>,
    ) {
        let found = known.find_map(|subscription| {
            let list = subscription.as_sent().filter(|list| !list.is_empty())?;
            Some((rest.strip_prefix(list)?, subscription.len(), subscription.id()))
        });
        if let Some((after, len, id)) = found {
            let start = message.len() - rest.len();
            self.push(message, start..message.len() - after.len());
            (self.len, self.known, *rest) = (len, Some((id, len)), after);
        }
    }

    fn fields(&mut self, message: &Bytes) -> Bytes {
        let row = self.row.clone();
        if self.before.is_empty() {
            return message.slice(row);
        }
        self.before.extend_from_slice(message.get(row).unwrap_or_default());
        std::mem::take(&mut self.before).into()
    }

    fn names(mut self, message: &Bytes) -> Result<Names, Malformed> {
        let fields = self.fields(message);
        if let Some((known, len)) = self.known
            && len == self.len
        {
            return Ok(Names { fields, len, known: Some(known) });
        }
        // All of them at once; lengths above 127 and other scripts take the longer way.
        if !fields.is_ascii() {
            let mut rest = &fields[..];
            while let Some((_, name)) = next_field(&mut rest)? {
                utf8(name)?;
            }
        }
        Ok(Names { fields, len: self.len, known: None })
    }
}

/// What both variants have.
#[derive(Clone, Debug, Default)]
pub struct Common {
    /// Encoded `Node`; usually only on a stream's first request (rule 15).
    pub node: Option<Bytes>,
    /// Empty on single-type services.
    pub type_url: String,
    pub response_nonce: String,
    /// The text of `error_detail`, cut to [`MAX_NACK_TEXT`]; its presence alone makes a NACK
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
    /// Name and version of each resource the client brings along (rule 13).
    pub initial_versions: InitialVersions,
}

/// A request of either variant.
#[derive(Clone, Debug)]
pub enum Request {
    Sotw(SotwRequest),
    Delta(DeltaRequest),
}

impl Request {
    pub fn common(&self) -> &Common {
        match self {
            Self::Sotw(request) => &request.common,
            Self::Delta(request) => &request.common,
        }
    }

    /// Names that are to be looked up one by one: none if the list is known.
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

    /// Decodes a request of the variant that the method says.
    ///
    /// # Errors
    /// Bytes that are no such message.
    pub fn decode(message: Bytes, delta: bool) -> Result<Self, Malformed> {
        Self::decode_knowing(message, delta, [])
    }

    /// The same, with subscriptions of which this may be the list again.
    ///
    /// # Errors
    /// Bytes that are no such message.
    pub fn decode_knowing<'a>(
        message: Bytes,
        delta: bool,
        known: impl IntoIterator<Item = &'a Subscription>,
    ) -> Result<Self, Malformed> {
        if delta {
            DeltaRequest::decode(message).map(Self::Delta)
        } else {
            SotwRequest::decode(message, known.into_iter()).map(Self::Sotw)
        }
    }
}

/// `initial_resource_versions`, still in the request's bytes: an entry that says nothing has two of
/// them, and would take a hundred as two strings.
#[derive(Clone, Debug, Default)]
pub struct InitialVersions {
    fields: Bytes,
    len: usize,
}

impl InitialVersions {
    /// Checked when the request was decoded.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &self.fields[..];
        std::iter::from_fn(move || {
            let (_, content) = next_field(&mut rest).ok()??;
            Some(map_entry(content).unwrap_or_default())
        })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl SotwRequest {
    fn decode<'a>(
        message: Bytes,
        known: impl Iterator<Item = &'a Subscription>,
    ) -> Result<Self, Malformed> {
        let mut request = Self::default();
        let common = &mut request.common;
        let mut names = Run::new();
        let mut known = Some(known);
        let mut rest = &message[..];
        loop {
            if rest.first() == Some(&SOTW_NAME)
                && let Some(known) = known.take()
            {
                names.take_known(&message, &mut rest, known);
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
        request.names = names.names(&message)?;
        Ok(request)
    }
}

impl DeltaRequest {
    fn decode(message: Bytes) -> Result<Self, Malformed> {
        let mut request = Self::default();
        let common = &mut request.common;
        let [mut subscribe, mut unsubscribe, mut initial] = [const { Run::new() }; 3];
        fields(&message, |number, field, content| {
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
        request.subscribe = subscribe.names(&message)?;
        request.unsubscribe = unsubscribe.names(&message)?;
        let len = initial.len;
        request.initial_versions = InitialVersions { fields: initial.fields(&message), len };
        Ok(request)
    }
}

/// Calls `take` with every length-delimited field: number, place in the message, content. Others
/// are skipped, as protobuf wants of fields that one does not know.
fn fields<'a>(
    message: &'a [u8],
    mut take: impl FnMut(u32, Range<usize>, &'a [u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut rest = message;
    loop {
        // A field that is skipped on the way is taken along; reading the names skips it again.
        let start = message.len() - rest.len();
        let Some((number, content)) = next_field(&mut rest)? else { return Ok(()) };
        take(number, start..message.len() - rest.len(), content)?;
    }
}

/// The next length-delimited field, or `None` at the end.
#[inline]
fn next_field<'a>(rest: &mut &'a [u8]) -> Result<Option<(u32, &'a [u8])>, Malformed> {
    // Small numbers and lengths, as in nearly every field there is.
    if let [tag @ ..0x80, len @ ..0x80, after @ ..] = *rest
        && tag & 7 == WireType::LengthDelimited as u8
        && tag >> 3 != 0
        && let Some((content, after)) = after.split_at_checked(usize::from(*len))
    {
        *rest = after;
        return Ok(Some((u32::from(tag >> 3), content)));
    }
    next_field_of_any_sort(rest)
}

fn next_field_of_any_sort<'a>(rest: &mut &'a [u8]) -> Result<Option<(u32, &'a [u8])>, Malformed> {
    while !rest.is_empty() {
        let (number, wire_type) = decode_key(rest)?;
        if wire_type == WireType::LengthDelimited {
            return Ok(Some((number, delimited(rest)?)));
        }
        skip_field(wire_type, number, rest, Default::default())?;
    }
    Ok(None)
}

/// The content of a length-delimited field, after its key.
pub(super) fn delimited<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let len = decode_varint(rest)?;
    let content = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len));
    let (content, after) = content.ok_or_else(Malformed::too_short)?;
    *rest = after;
    Ok(content)
}

pub(super) fn utf8(content: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(content).map_err(|_| Malformed("a string is not UTF-8".to_owned()))
}

/// A version or a nonce.
fn token(content: &[u8]) -> Result<String, Malformed> {
    utf8(content).map(|text| peer_text::cut(text, MAX_TOKEN).into_owned())
}

fn type_url(content: &[u8]) -> Result<String, Malformed> {
    let len = content.len();
    if len > MAX_TYPE_URL {
        return Err(Malformed(format!("type_url has {len} bytes, the limit is {MAX_TYPE_URL}")));
    }
    utf8(content).map(str::to_owned)
}

/// A protobuf map's entry: key = 1, value = 2.
fn map_entry(content: &[u8]) -> Result<(&str, &str), Malformed> {
    let (mut key, mut value) = ("", "");
    fields(content, |number, _, content| {
        match number {
            1 => key = utf8(content)?,
            2 => value = utf8(content)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((key, value))
}

/// The message of a `google.rpc.Status`. Its code says nothing that one could rely on: Envoy sends
/// 13, gRPC 3 (rule 2). A status that does not even parse is still a NACK.
fn status_text(content: &[u8]) -> Result<String, Malformed> {
    let mut text = &b""[..];
    fields(content, |number, _, content| {
        if number == 2 {
            text = content;
        }
        Ok(())
    })?;
    Ok(peer_text::cut_lossy(text, MAX_NACK_TEXT))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use envoy_types::pb::envoy::config::core::v3::Node;
    use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
    use envoy_types::pb::google::rpc::Status;
    use prost::Message as _;

    use super::*;

    fn text(names: &Names) -> Vec<&str> {
        names.iter().collect()
    }

    #[test]
    fn decodes_what_prost_encodes() {
        let node = Node { id: "me".to_owned(), ..Default::default() };
        let sent = DiscoveryRequest {
            version_info: "7".to_owned(),
            node: Some(node.clone()),
            resource_names: vec!["b".to_owned(), "a".to_owned()],
            type_url: "t".to_owned(),
            response_nonce: "n".to_owned(),
            error_detail: Some(Status { code: 13, message: "no".to_owned(), details: vec![] }),
            ..Default::default()
        };
        let Ok(Request::Sotw(got)) = Request::decode(sent.encode_to_vec().into(), false) else {
            panic!("did not decode")
        };
        assert_eq!((got.version_info.as_str(), text(&got.names)), ("7", vec!["b", "a"]));
        assert_eq!((got.common.type_url.as_str(), got.common.response_nonce.as_str()), ("t", "n"));
        assert_eq!(got.common.error.as_deref(), Some("no"));
        assert_eq!(got.common.node.as_deref(), Some(&*node.encode_to_vec()));

        let sent = DeltaDiscoveryRequest {
            node: Some(node.clone()),
            type_url: "t".to_owned(),
            resource_names_subscribe: vec!["a".to_owned()],
            resource_names_unsubscribe: vec!["b".to_owned()],
            initial_resource_versions: [("c".to_owned(), "1".to_owned())].into(),
            response_nonce: "n".to_owned(),
            error_detail: Some(Status::default()),
            ..Default::default()
        };
        let Ok(Request::Delta(got)) = Request::decode(sent.encode_to_vec().into(), true) else {
            panic!("did not decode")
        };
        assert_eq!((text(&got.subscribe), text(&got.unsubscribe)), (vec!["a"], vec!["b"]));
        assert_eq!(got.initial_versions.iter().collect::<Vec<_>>(), [("c", "1")]);
        assert_eq!(got.initial_versions.len(), 1);
        // An empty status is a NACK all the same.
        assert_eq!(got.common.error.as_deref(), Some(""));
    }

    #[test]
    fn names_need_not_stand_in_a_row() {
        // b, a type, an unknown number, a
        let message = b"\x1a\x01b\x22\x01t\x78\x07\x1a\x02\xc3\xa4\x78\x07";
        let Ok(Request::Sotw(got)) = Request::decode(Bytes::from_static(message), false) else {
            panic!("did not decode")
        };
        assert_eq!((text(&got.names), got.names.len()), (vec!["b", "ä"], 2));
        assert_eq!(got.common.type_url, "t");
        let same: Names = ["b", "a"].into_iter().collect();
        assert_eq!((text(&same), same.len()), (vec!["b", "a"], 2));
    }

    /// Lists that are known are taken in one go, and mean the same.
    #[test]
    fn a_list_that_is_known_is_read_as_any_other() {
        let interner = crate::subscription::Interner::default();
        let subscribe = |names: &[&'static str]| {
            let sent: Names = names.iter().copied().collect();
            let list = || names.iter().map(|name| Arc::from(*name)).collect();
            interner.intern_as_sent(sent.as_sent(), sent.len(), list)
        };
        let (ab, a) = (subscribe(&["a", "b"]), subscribe(&["a"]));
        let known = |names: &[&str], known: &[&Arc<Subscription>]| {
            let request = DiscoveryRequest {
                version_info: "7".to_owned(),
                resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
                type_url: "t".to_owned(),
                ..Default::default()
            };
            let bytes = Bytes::from(request.encode_to_vec());
            let known = known.iter().map(|one| &***one);
            let Ok(Request::Sotw(got)) = Request::decode_knowing(bytes, false, known) else {
                panic!("did not decode")
            };
            assert_eq!((text(&got.names), got.names.len()), (names.to_vec(), names.len()));
            assert_eq!((&*got.version_info, &*got.common.type_url), ("7", "t"));
            got.names.known()
        };
        assert_eq!(known(&["a", "b"], &[&ab]), Some(ab.id()));
        assert_eq!(known(&["a"], &[&ab, &a]), Some(a.id()));
        assert_eq!(known(&["a", "b"], &[&a]), None, "more than that");
        assert_eq!(known(&["a", "b", "c"], &[&a, &ab]), None);
        assert_eq!(known(&["b", "a"], &[&ab]), None, "another order");
        assert_eq!(known(&["ab"], &[&a]), None);
        assert_eq!(known(&[], &[&a]), None);
    }

    /// D4, D5: what a peer says costs its own size, and what is kept of it has a bound.
    #[test]
    fn what_is_kept_of_a_request_is_bounded() {
        let decode = |request: &DeltaDiscoveryRequest| {
            Request::decode(request.encode_to_vec().into(), true).map(|request| match request {
                Request::Delta(request) => request,
                Request::Sotw(_) => panic!("the other variant"),
            })
        };
        let long = "ä".repeat(1 << 20);
        let got = decode(&DeltaDiscoveryRequest {
            response_nonce: long.clone(),
            error_detail: Some(Status { message: long.clone(), ..Default::default() }),
            ..Default::default()
        });
        let got = got.unwrap().common;
        let error = got.error.unwrap();
        assert!(error.len() <= MAX_NACK_TEXT && error.ends_with("(2097152 bytes)"), "{error}");
        assert!(got.response_nonce.len() <= MAX_TOKEN);
        let type_url = format!("type.googleapis.com/{long}");
        let refused = decode(&DeltaDiscoveryRequest { type_url, ..Default::default() });
        assert!(refused.unwrap_err().to_string().contains("the limit is 256"));

        // A million names that say nothing, none beside another, and as many versions.
        let message = b"\x1a\0\x2a\0".repeat(1 << 20);
        let Ok(Request::Delta(got)) = Request::decode(message.into(), true) else {
            panic!("did not decode")
        };
        assert_eq!((got.subscribe.len(), got.subscribe.fields.len()), (1 << 20, 2 << 20));
        assert_eq!(
            (got.initial_versions.len(), got.initial_versions.fields.len()),
            (1 << 20, 2 << 20)
        );
    }

    #[test]
    fn refuses_what_is_no_request() {
        for bytes in [&b"\x1a\xff"[..], b"\x1a\x02\xff\xfe", b"\x0a\x05abc", b"\xff\xff\xff"] {
            assert!(Request::decode(Bytes::copy_from_slice(bytes), false).is_err(), "{bytes:?}");
        }
    }
}
