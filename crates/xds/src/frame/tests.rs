use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};

use prost::Message as _;

use super::*;
use crate::ServedType;

const ENDPOINT: &str = ServedType::ENDPOINT.type_url;

fn load_assignment(name: &str) -> Arc<Resource> {
    let message = ClusterLoadAssignment { cluster_name: name.to_owned(), ..Default::default() };
    Resource::new(ENDPOINT, name.into(), &message)
}

fn message(frame: &Frame, nonce: u64) -> Vec<u8> {
    let mut bytes = frame.to_bytes(nonce);
    let len = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
    assert_eq!((bytes[0], len), (0, bytes.len() - 5), "gRPC prefix");
    bytes.split_off(5)
}

#[test]
fn both_variants_decode_to_the_same_resource() {
    let frames = FrameBuilder::new("me");
    let resource = load_assignment("a");
    let url = ENDPOINT;
    let list = [&*resource];

    let frame = frames.sotw(url, Version(7), &list);
    let sotw = DiscoveryResponse::decode(&*message(&frame, 0xab)).unwrap();
    assert_eq!(sotw.version_info, "0000000000000007");
    assert_eq!((sotw.type_url.as_str(), sotw.nonce.as_str()), (url, "00000000000000ab"));
    assert_eq!(sotw.control_plane.unwrap().identifier, "me");
    let any = sotw.resources.first().unwrap();
    assert_eq!(any.type_url, url);
    assert_eq!(ClusterLoadAssignment::decode(&*any.value).unwrap().cluster_name, "a");
    assert_eq!(resource.value(), any.value);

    let frame = frames.delta(url, Version(7), &list, &["gone"]);
    let delta = DeltaDiscoveryResponse::decode(&*message(&frame, 1)).unwrap();
    assert_eq!(delta.removed_resources, ["gone"]);
    assert_eq!(delta.control_plane.unwrap().identifier, "me");
    let entry = delta.resources.first().unwrap();
    assert_eq!((entry.name.as_str(), &entry.version), ("a", &resource.version.to_string()));
    assert_eq!(entry.resource.as_ref().unwrap(), any);
}

#[test]
fn a_message_is_few_pieces_and_shares_all_but_its_end() {
    let pieces = |len: usize| {
        let head = Bytes::from(vec![b'x'; len]);
        let rope = [head.clone()].into_iter().collect();
        let frame = Frame { head: rope, built: len, version: Version(0), resources: 0, removed: 0 };
        let pieces: Vec<FramePiece> = frame.pieces(0xfedc_ba98_7654_3210).collect();
        let (last, others) = pieces.split_last().unwrap();
        assert!(others.iter().all(|piece| piece.tail.is_none()));
        assert_eq!(last.tail(), b"\x2a\x10fedcba9876543210");
        let mut at = head.as_ptr();
        for piece in &pieces {
            let shared: Vec<Bytes> = piece.shared(0..piece.shared_len()).collect();
            assert_eq!((shared.len(), shared[0].as_ptr()), (1, at), "not a copy");
            at = shared[0].as_ptr_range().end;
        }
        pieces.iter().map(FramePiece::shared_len).collect::<Vec<_>>()
    };
    assert_eq!(pieces(100), [100]);
    assert_eq!(pieces(PIECE_BYTES), [PIECE_BYTES]);
    assert_eq!(pieces(2 * PIECE_BYTES + 7), [PIECE_BYTES, PIECE_BYTES, 7]);
}

#[test]
fn sets_know_their_digest_and_difference() {
    let (a, b) = (load_assignment("a"), load_assignment("b"));
    let insertion = |one: &Arc<Resource>| (one.name.clone(), Some(one.clone()));
    let empty = Arc::new(TypeSet::default());
    let one_way = empty.with([insertion(&a)]).with([insertion(&b)]);
    let other_way = empty.with([insertion(&b), insertion(&a)]);
    assert_eq!(one_way.version(), other_way.version());
    assert_eq!(one_way.bytes(), other_way.bytes());
    assert!(Arc::ptr_eq(&one_way, &one_way.with([insertion(&a)])), "nothing changed");

    let less = one_way.with([("a".into(), None), ("never there".into(), None)]);
    let diff = less.diff_from(&one_way);
    assert_eq!((diff.changed.len(), &*diff.removed), (0, &["a".into()][..]));
    let back = less.with([insertion(&a)]);
    assert_eq!(back.version(), one_way.version());
    assert_eq!(back.diff_from(&less).changed, [a]);
}

/// Readers that stall are disconnected by what they keep alive: by whole lengths, ten of ten views would be too many.
#[test]
fn what_a_response_has_in_common_with_an_earlier_one_is_not_its_own() {
    let frames = FrameBuilder::new("me");
    let mut all: Vec<_> = (0..2000).map(|at| load_assignment(&format!("r{at:04}"))).collect();
    let frame = |all: &[Arc<Resource>]| {
        let list: Vec<&Resource> = all.iter().map(|one| &**one).collect();
        frames.delta(ENDPOINT, Version(7), &list, &[])
    };
    let first = frame(&all);
    assert!(first.own_bytes() + TAIL_BYTES >= first.len(), "{first:?}");
    all[1000] = load_assignment("another");
    let second = frame(&all);
    assert!(second.own_bytes() < second.len() / 8, "{} of {}", second.own_bytes(), second.len());
}
