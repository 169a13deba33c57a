use super::*;

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, DecodeError> {
    let mut all = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    decoder.decode(block, |name, value| all.push((text(name), text(value)))).map(|()| all)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

fn fields(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// RFC 7541, appendix C.3 (plain) and C.4 (Huffman): three requests on one connection.
#[test]
fn requests_of_the_rfc() {
    let first = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
    ];
    let third = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ];
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let coded = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::new();
        assert_eq!(decode(&mut decoder, &hex(blocks[0])).unwrap(), fields(&first));
        let second = [&first[..], &[("cache-control", "no-cache")]].concat();
        assert_eq!(decode(&mut decoder, &hex(blocks[1])).unwrap(), fields(&second));
        assert_eq!(decode(&mut decoder, &hex(blocks[2])).unwrap(), fields(&third));
        assert_eq!(decoder.table_size, 164);
    }
}

/// RFC 7541, appendix C.5: a table of 256 bytes that has to let go of entries.
#[test]
fn entries_leave_the_table() {
    let mut decoder = Decoder::new();
    let mut block = hex("3fe1 01"); // a table of 256
    block.extend(hex(
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a \
         3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
    ));
    let date = "Mon, 21 Oct 2013 20:13:21 GMT";
    let rest =
        [("cache-control", "private"), ("date", date), ("location", "https://www.example.com")];
    let all = [&[(":status", "302")], &rest[..]].concat();
    assert_eq!(decode(&mut decoder, &block).unwrap(), fields(&all));
    assert_eq!(decoder.table_size, 222);
    let all = [&[(":status", "307")], &rest[..]].concat();
    let block = hex("4803 3330 37c1 c0bf");
    assert_eq!(decode(&mut decoder, &block).unwrap(), fields(&all));
    assert_eq!((decoder.table_size, decoder.dynamic_table.len()), (222, 4), ":status 302 has gone");
    assert_eq!(decode(&mut decoder, &[0x20, 0x82]).unwrap(), fields(&[(":method", "GET")]));
    assert_eq!((decoder.table_size, decoder.dynamic_table.len()), (0, 0), "no table at all");
}

#[test]
fn what_is_no_block_is_refused() {
    for (what, block) in [
        ("index 0", &[0x80][..]),
        ("an index that is not there", &[0xbe]),
        ("a name that is not there", &[0x7f, 0x00, 0x01, b'a']),
        ("an integer without end", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("an integer cut off", &[0xff]),
        ("a string cut off", &[0x40, 0x05, b'a']),
        ("no value", &[0x40, 0x01, b'a']),
        ("a table larger than agreed", &[0x3f, 0xe2, 0x1f]),
        ("a table's size after a field", &[0x82, 0x20]),
    ] {
        assert_eq!(decode(&mut Decoder::new(), block), Err(DecodeError::Malformed), "{what}");
    }
    assert!(decode(&mut Decoder::new(), &[0x3f, 0xe1, 0x1f]).is_ok(), "4096 is what was agreed");
}

/// CVE-2016-6581: an entry of 4,000 bytes, and references to it of one, two or three bytes.
#[test]
fn a_small_block_that_decodes_to_much_is_refused() {
    for reference in [&[0xbe][..], &[0x7e, 0x00], &[0x0f, 0x2f, 0x00]] {
        let entry = [&[0x40, 0x7f, 0xa1, 0x1e][..], &[b'x'; 4000], &[0]].concat();
        let block = |times| [&entry[..], &reference.repeat(times)].concat();
        let fields = decode(&mut Decoder::new(), &block(15)).unwrap();
        assert!(fields.len() == 16 && fields.iter().all(|(name, _)| name.len() == 4000));
        assert_eq!(decode(&mut Decoder::new(), &block(16)), Err(DecodeError::TooLarge));
    }
}

#[test]
fn what_is_encoded_is_decoded() {
    let long = "x".repeat(15_000);
    let mut headers = HeaderMap::new();
    for value in ["", "short", &"y".repeat(127), &"z".repeat(300), &long] {
        headers.append("grpc-message", value.parse().unwrap());
    }
    let mut block = HeaderBlock::default();
    block.push_table_size_zero();
    block.push_status(StatusCode::OK);
    block.push_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    block.push_headers(&headers);
    let mut decoder = Decoder::new();
    let all = decode(&mut decoder, &block.0).unwrap();
    assert_eq!(all[..2], fields(&[(":status", "200"), (":status", "431")]));
    let values: Vec<&str> = all[2..].iter().map(|(_, value)| &**value).collect();
    assert_eq!(values, headers.values().map(|one| one.to_str().unwrap()).collect::<Vec<_>>());
    assert_eq!(decoder.dynamic_table.len(), 0);
}
