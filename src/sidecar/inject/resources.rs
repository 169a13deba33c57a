//! What a container asks for and may take. A pod whose request is above its limit is refused by the API
//! server, so where only one of the two is given the other, which is our own default, gives way.

use super::node::{Map, Node, map_at};

/// A Kubernetes quantity like `100m` or `64Mi`, in its unit.
///
/// # Errors
/// It is none.
pub(super) fn quantity(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is no quantity like 500m, 2 or 128Mi");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let number: f64 = match number.matches('.').count() {
        0 | 1 if number.contains(|c: char| c.is_ascii_digit()) => {
            number.parse().map_err(|_| wrong())?
        }
        _ => return Err(wrong()),
    };
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 2f64.powi(10),
        "Mi" => 2f64.powi(20),
        "Gi" => 2f64.powi(30),
        "Ti" => 2f64.powi(40),
        "Pi" => 2f64.powi(50),
        "Ei" => 2f64.powi(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or_else(wrong)?;
            let exponent: i8 = exponent.parse().map_err(|_| wrong())?;
            10f64.powi(exponent.into())
        }
    };
    Ok(number * factor)
}

/// For flags.
pub(super) fn cpu(text: &str) -> Result<String, String> {
    quantity(text).map(|_| text.to_owned())
}

/// For flags: memory is counted in bytes, and `128m` is less than one.
pub(super) fn memory(text: &str) -> Result<String, String> {
    let bytes = quantity(text)?;
    match bytes > 0.0 && bytes < 1.0 {
        true => {
            Err(format!("{text:?} is less than one byte (m is a thousandth; Mi is probably meant)"))
        }
        false => Ok(text.to_owned()),
    }
}

/// A quantity that somebody asked for, and where he did.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) place: String,
    pub(super) value: Node,
}

/// What was asked for of one resource.
#[derive(Debug, Default)]
pub(super) struct Wish {
    pub(super) request: Option<Asked>,
    pub(super) limit: Option<Asked>,
}

/// Puts the wishes into a container that has our defaults.
pub(super) fn apply(container: &mut Map, cpu: Wish, memory: Wish) -> Result<(), String> {
    let resources = map_at(container, "resources").ok_or("resources is no object")?;
    for (resource, wish) in [("cpu", cpu), ("memory", memory)] {
        let mut default = |place| {
            let map = map_at(resources, place).ok_or_else(|| format!("{place} is no object"))?;
            Ok::<_, String>(map.get(resource).cloned())
        };
        let (default_request, default_limit) = (default("requests")?, default("limits")?);
        let (mut request, mut limit) = (
            wish.request.as_ref().map(|asked| asked.value.clone()).or(default_request),
            wish.limit.as_ref().map(|asked| asked.value.clone()).or(default_limit),
        );
        let value = |asked: Option<&Asked>, node: Option<&Node>| {
            let Some(node) = node else { return Ok(None) };
            let checked = text(node).and_then(|text| {
                if resource == "memory" { self::memory(&text) } else { self::cpu(&text) }?;
                quantity(&text)
            });
            checked.map(Some).map_err(|error| match asked {
                Some(asked) => format!("{}: {error}", asked.place),
                None => error,
            })
        };
        let asks = value(wish.request.as_ref(), request.as_ref())?;
        let may = value(wish.limit.as_ref(), limit.as_ref())?;
        if let (Some(asks), Some(may)) = (asks, may)
            && asks > may
        {
            match (&wish.request, &wish.limit) {
                (Some(ask), Some(most)) => {
                    let shown = |node: &Node| text(node).unwrap_or_default();
                    return Err(format!(
                        "{} asks for {} and {} allows {}: a request must not be above its limit",
                        ask.place,
                        shown(&ask.value),
                        most.place,
                        shown(&most.value),
                    ));
                }
                (Some(_), None) => limit.clone_from(&request),
                (None, _) => request.clone_from(&limit),
            }
        }
        for (place, value) in [("requests", request), ("limits", limit)] {
            if let (Some(value), Some(map)) = (value, map_at(resources, place)) {
                map.insert(resource.to_owned(), value);
            }
        }
    }
    resources.retain(|_, part| !matches!(part, Node::Map(map) if map.is_empty()));
    Ok(())
}

/// `cpu: 2` is a number in YAML.
fn text(node: &Node) -> Result<String, String> {
    match node {
        Node::Text(text) => Ok(text.clone()),
        Node::Unsigned(number) => Ok(number.to_string()),
        Node::Float(number) => Ok(number.to_string()),
        other => Err(format!("{other:?} is no quantity")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for (text, value) in [
            ("0", 0.0),
            ("2", 2.0),
            (".5", 0.5),
            ("1.", 1.0),
            ("100m", 0.1),
            ("2Gi", 2_147_483_648.0),
            ("2G", 2e9),
            ("1e3", 1e3),
            ("1E-3", 1e-3),
            ("2E", 2e18),
        ] {
            let found = quantity(text).unwrap();
            assert!((found - value).abs() <= value * 1e-12, "{text}: {found}");
        }
        for text in [
            "", "m", ".", "1.2.3", "-1", "+", "1 Gi", "1gi", "1GB", "1Mb", "two", "1e", "1e999",
            "0x1",
        ] {
            assert!(quantity(text).is_err(), "{text}");
        }
        assert!(memory("128m").unwrap_err().contains("less than one byte"));
        assert_eq!((memory("0"), cpu("128m")), (Ok("0".to_owned()), Ok("128m".to_owned())));
    }
}
