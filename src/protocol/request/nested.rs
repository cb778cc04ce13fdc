//! Where a member stands within each of a body's `messages`, for providers that refuse it there.

use super::scan::{Broken, Scan};
use crate::protocol::edit::MemberSpan;
use memchr::memmem;

/// Where members of this name stand in the messages of a body, message by message. The body has been
/// read before; where nothing in it looks like the name it is not read again.
#[must_use]
pub fn within_messages(body: &[u8], name: &str) -> Vec<Vec<MemberSpan>> {
    if memmem::find(body, name.as_bytes()).is_none() {
        return Vec::new();
    }
    let found = std::str::from_utf8(body).ok().and_then(|text| walk(text, name).ok());
    found.unwrap_or_default()
}

fn walk(text: &str, name: &str) -> Result<Vec<Vec<MemberSpan>>, Broken> {
    let mut scan = Scan::new(text);
    let mut found = Vec::new();
    let mut members = scan.enter_loosely(0)?;
    while let Some(member) = scan.next_member(&mut members)? {
        if member.name != "messages" || scan.peek() != Some(b'[') {
            scan.value(1)?;
            continue;
        }
        let mut messages = scan.enter_array(1)?;
        while scan.next_item(&mut messages)? {
            if scan.peek() == Some(b'{') {
                found.push(of_message(&mut scan, name)?);
            } else {
                scan.value(2)?;
            }
        }
    }
    Ok(found)
}

fn of_message(scan: &mut Scan<'_>, name: &str) -> Result<Vec<MemberSpan>, Broken> {
    let mut found = Vec::new();
    let mut members = scan.enter_loosely(2)?;
    while let Some(member) = scan.next_member(&mut members)? {
        scan.value(3)?;
        let place = scan.place(&member);
        if member.name == name {
            found.push(place);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::edit::Edits;
    use bytes::Bytes;

    fn without(body: &str, name: &str) -> String {
        let mut edits = Edits::new();
        for message in &within_messages(body.as_bytes(), name) {
            edits.remove(message);
        }
        let body = Bytes::copy_from_slice(body.as_bytes());
        let pieces: Vec<Bytes> = edits.apply(&body).iter().cloned().collect();
        String::from_utf8(pieces.concat()).unwrap()
    }

    #[test]
    fn it_goes_from_each_message_and_from_nowhere_else() {
        let body = r#"{"thought":"out","messages":[{"thought":"a","role":"user"}, {"role":"x","thought":{"thought":1}},
            "thought", {"content":[{"thought":"in a part"}], "thought" : null , "z":1},{"thought":""}],"more":{"thought":1}}"#;
        let clean = r#"{"thought":"out","messages":[{"role":"user"}, {"role":"x"},
            "thought", {"content":[{"thought":"in a part"}] , "z":1},{}],"more":{"thought":1}}"#;
        assert_eq!(without(body, "thought"), clean);
        for same in [r#"{"messages":"thought"}"#, r#"{"input":[{"thought":1}]}"#, "{", "[]", ""] {
            assert_eq!(without(same, "thought"), same);
        }
    }
}
