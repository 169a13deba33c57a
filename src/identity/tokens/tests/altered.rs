//! Whatever is done to a token that is good, it is not good any more; and whatever comes, the reader ends
//! with a refusal.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

/// A token, and the keys that it is good with.
static GOOD: LazyLock<[(String, KeySet); 2]> = LazyLock::new(|| {
    [Key::es256("a"), Key::rsa("a", "RS256")].map(|key| (key.token(&claims()), key_set(&[&key])))
});

/// One thing that is done to the bytes of a token.
#[derive(Clone, Debug)]
enum Alteration {
    Replace(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Cut(prop::sample::Index),
    Double(prop::sample::Index, prop::sample::Index),
}

fn alteration() -> impl Strategy<Value = Alteration> {
    let letter =
        || prop_oneof![4 => proptest::char::range('-', 'z').prop_map(|c| c as u8), 1 => 0_u8..128];
    let place = any::<prop::sample::Index>;
    prop_oneof![
        (place(), letter()).prop_map(|(at, letter)| Alteration::Replace(at, letter)),
        (place(), letter()).prop_map(|(at, letter)| Alteration::Insert(at, letter)),
        place().prop_map(Alteration::Remove),
        place().prop_map(Alteration::Cut),
        (place(), place()).prop_map(|(from, to)| Alteration::Double(from, to)),
    ]
}

fn altered(token: &str, alterations: &[Alteration]) -> String {
    let mut bytes = token.as_bytes().to_vec();
    for alteration in alterations {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        match alteration {
            Alteration::Replace(at, letter) => bytes[at.index(length)] = *letter,
            Alteration::Insert(at, letter) => bytes.insert(at.index(length), *letter),
            Alteration::Remove(at) => drop(bytes.remove(at.index(length))),
            Alteration::Cut(at) => bytes.truncate(at.index(length)),
            Alteration::Double(from, to) => {
                let (from, to) = (from.index(length), to.index(length));
                let again = bytes[from.min(to)..from.max(to)].to_vec();
                bytes.splice(to..to, again);
            }
        }
    }
    String::from_utf8(bytes).expect("ASCII letters alone")
}

proptest! {
    #[test]
    fn an_altered_token_is_never_accepted(
        which in 0_usize..2,
        alterations in prop::collection::vec(alteration(), 1..4),
    ) {
        let (good, keys) = &GOOD[which];
        let token = altered(good, &alterations);
        prop_assume!(token != *good);
        prop_assert!(verify(&token, keys).is_err(), "{}", token);
    }

    #[test]
    fn anything_is_read_without_a_panic(text in any::<String>(), json in "[\\[\\]{}\":,a-z0-9.]{0,200}") {
        prop_assert!(verify(&text, &GOOD[0].1).is_err());
        let token = format!("{}.{}.{}", base64(json.as_bytes()), base64(text.as_bytes()), base64(b"x"));
        prop_assert!(verify(&token, &GOOD[0].1).is_err());
        _ = KeySet::read(json.as_bytes());
        _ = KeySet::read(text.as_bytes());
    }

    /// Claims of every shape, truly signed: they are refused, or are those of a ServiceAccount.
    #[test]
    fn signed_claims_are_a_service_accounts_or_refused(
        field in prop::sample::select(vec![
            "/iss", "/sub", "/aud", "/exp", "/nbf", "/kubernetes.io", "/kubernetes.io/namespace",
            "/kubernetes.io/pod", "/kubernetes.io/serviceaccount",
        ]),
        value in prop_oneof![
            Just(Value::Null), any::<i64>().prop_map(Value::from), any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from), Just(json!({})), Just(json!([[], {}])),
        ],
    ) {
        static KEY: LazyLock<(Key, KeySet)> = LazyLock::new(|| {
            let key = Key::es256("a");
            let keys = key_set(&[&key]);
            (key, keys)
        });
        let (key, keys) = &*KEY;
        if let Ok(token) = verify(&key.token(&claims_with(field, value)), keys) {
            prop_assert_eq!((&*token.namespace, &*token.service_account), ("shop", "web"));
        }
    }
}
