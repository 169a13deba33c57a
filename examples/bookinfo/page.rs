//! Productpage for people: plain HTML without scripts, readable in a terminal's browser as well.

use serde_json::Value;

/// The page of one product. A part that could not be had says why.
pub(crate) fn render(
    pod: &str,
    details: Result<&Value, &String>,
    reviews: Result<&Value, &String>,
) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <title>The Comedy of Errors</title>\n<style>\n\
         body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem }}\n\
         small {{ color: #666 }} .missing {{ color: #b00 }} blockquote {{ margin: 1rem 0 }}\n\
         </style>\n</head>\n<body>\n<h1>The Comedy of Errors</h1>\n{}{}\
         <p><small>page by {}; reload to meet other reviewers</small></p>\n</body>\n</html>\n",
        details.map_or_else(|why| missing("details", why), show_details),
        reviews.map_or_else(|why| missing("reviews", why), show_reviews),
        text(pod),
    )
}

fn show_details(details: &Value) -> String {
    let shown = ["author", "year", "type", "pages", "publisher", "language", "ISBN-13"];
    let items: String =
        shown.iter().map(|key| format!("<li>{key}: {}</li>\n", value(&details[key]))).collect();
    format!(
        "<h2>Details</h2>\n<ul>\n{items}</ul>\n<p><small>by {}</small></p>\n",
        value(&details["pod"])
    )
}

fn show_reviews(reviews: &Value) -> String {
    let mut html = "<h2>Reviews</h2>\n".to_owned();
    for review in reviews["reviews"].as_array().into_iter().flatten() {
        html += &format!("<blockquote>{}<br>\n", value(&review["text"]));
        html += &format!(
            "<small>{}</small> {}</blockquote>\n",
            value(&review["reviewer"]),
            stars(&review["rating"])
        );
    }
    html += &format!("<p><small>by {}", value(&reviews["pod"]));
    if !reviews["ratings_from"].is_null() {
        html += &format!(", stars by {}", value(&reviews["ratings_from"]));
    }
    html + "</small></p>\n"
}

fn stars(rating: &Value) -> String {
    match (rating["stars"].as_u64(), &rating["error"]) {
        (Some(stars), _) => {
            let shown: String =
                (1..=5).map(|place| if place <= stars { '★' } else { '☆' }).collect();
            format!("<span style=\"color: {}\">{shown}</span>", value(&rating["color"]))
        }
        (None, Value::String(why)) => missing("ratings", why),
        (None, _) => String::new(),
    }
}

fn missing(what: &str, why: &str) -> String {
    format!("<p class=\"missing\">No {what} just now: {}</p>\n", text(why))
}

fn value(value: &Value) -> String {
    text(&value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

fn text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
