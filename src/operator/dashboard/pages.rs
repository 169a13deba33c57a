//! The JSON of all replicas: each page is asked of all of them and merged, and one proxy's of the replica
//! that it is connected to.

use std::collections::HashMap;

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::{Dashboard, merge};
use crate::operator::ask::{Replica, encoded, with_query};
use crate::operator::changes::ChangesPage;
use crate::operator::replicas::{Asked, Failure, ask_json};
use crate::operator::status::{Filter, all, worst_first};

type Parameters = Query<HashMap<String, String>>;

/// Rows of an answer, at most, as the server has it.
const MOST: usize = 1000;
/// What a list begins with at most: so many rows are asked of each replica.
const MAX_OFFSET: usize = 100_000;

/// What goes wrong with a request, in plain text as a replica says it.
pub(super) struct Problem(StatusCode, String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, format!("{}\n", self.1)).into_response()
    }
}

type Page = Result<axum::Json<Value>, Problem>;

fn replicas(dashboard: &Dashboard) -> Result<Vec<Replica>, Problem> {
    let bad = |error| Problem(StatusCode::BAD_GATEWAY, error);
    dashboard.replicas().map_err(bad)
}

/// Something of it, if anybody has answered.
fn answered<T>(asked: &Asked<T>) -> Result<(), Problem> {
    match asked.answers.is_empty() {
        true => Err(Problem(StatusCode::BAD_GATEWAY, nobody(&asked.failures))),
        false => Ok(()),
    }
}

fn nobody(failures: &[Failure]) -> String {
    let said: Vec<_> =
        failures.iter().map(|one| format!("{}: {}", one.replica, one.error)).collect();
    format!("No replica has answered. {}", said.join("; "))
}

fn get<'a>(parameters: &'a Parameters, name: &str) -> &'a str {
    parameters.get(name).map(String::as_str).unwrap_or_default()
}

/// Offset and limit.
fn range(parameters: &Parameters) -> Result<(usize, usize), Problem> {
    let number = |name: &str, default: usize| match get(parameters, name) {
        "" => Ok(default),
        text => text.parse().map_err(|_| {
            Problem(StatusCode::BAD_REQUEST, format!("{name}={text:?} is no number."))
        }),
    };
    Ok((number("offset", 0)?.min(MAX_OFFSET), number("limit", 100)?.min(MOST)))
}

pub(super) async fn proxies(State(dashboard): State<Dashboard>, parameters: Parameters) -> Page {
    let replicas = replicas(&dashboard)?;
    let (offset, limit) = range(&parameters)?;
    let filter = Filter {
        search: get(&parameters, "search").to_owned(),
        state: get(&parameters, "state").to_owned(),
        namespace: get(&parameters, "namespace").to_owned(),
        kind: get(&parameters, "kind").to_owned(),
    };
    let mut gathered = all(&replicas, &filter, offset + limit).await;
    if gathered.replicas.is_empty() {
        return Err(Problem(StatusCode::BAD_GATEWAY, nobody(&gathered.failures)));
    }
    gathered.rows.sort_by(|one, other| worst_first(&one.proxy, &other.proxy));
    Ok(axum::Json(merge::proxies(gathered, offset, limit)))
}

pub(super) async fn proxy(State(dashboard): State<Dashboard>, Path(key): Path<String>) -> Response {
    of_one(&dashboard, &key, "", &[]).await
}

pub(super) async fn resources(
    State(dashboard): State<Dashboard>,
    Path(key): Path<String>,
    parameters: Parameters,
) -> Response {
    let names = ["type", "search", "offset", "limit", "name"];
    let given = names.map(|name| (name, get(&parameters, name)));
    of_one(&dashboard, &key, "/resources", &given).await
}

/// What the replica says that has the proxy.
async fn of_one(dashboard: &Dashboard, key: &str, rest: &str, given: &[(&str, &str)]) -> Response {
    let replicas = match replicas(dashboard) {
        Ok(replicas) => replicas,
        Err(problem) => return problem.into_response(),
    };
    // An address has colons of its own.
    let found = key
        .rsplit_once(':')
        .and_then(|(name, own)| Some((replicas.iter().find(|replica| replica.name == name)?, own)));
    let Some((replica, own)) = found else {
        let said = format!("There is no replica that has the proxy {key:?}; it may have gone.");
        return Problem(StatusCode::NOT_FOUND, said).into_response();
    };
    let path = with_query(&format!("/debug/proxies/{}{rest}", encoded(own)), given);
    match replica.get(&path).await {
        Ok(answer) if answer.status == StatusCode::OK && rest.is_empty() => {
            match serde_json::from_slice(&answer.body) {
                Ok(mut page) => {
                    merge::name_replica(&mut page, &replica.name);
                    axum::Json(page).into_response()
                }
                Err(error) => bad_gateway(replica, &error.to_string()),
            }
        }
        Ok(answer) => {
            let kind = match answer.status {
                StatusCode::OK => "application/json",
                _ => "text/plain; charset=utf-8",
            };
            (answer.status, [(header::CONTENT_TYPE, kind)], answer.body).into_response()
        }
        Err(error) => bad_gateway(replica, &error.to_string()),
    }
}

fn bad_gateway(replica: &Replica, error: &str) -> Response {
    Problem(StatusCode::BAD_GATEWAY, format!("{}: {error}", replica.name)).into_response()
}

/// The JSON of a page of each replica.
async fn ask(dashboard: &Dashboard, path: &str) -> Result<Asked<Value>, Problem> {
    let replicas = replicas(dashboard)?;
    Ok(ask_json(&replicas, path).await)
}

pub(super) async fn services(State(dashboard): State<Dashboard>, parameters: Parameters) -> Page {
    let (offset, limit) = range(&parameters)?;
    // All replicas watch the same: the one that knows most has its say.
    let (offset, limit) = (offset.to_string(), limit.to_string());
    let given = [("search", get(&parameters, "search")), ("offset", &offset), ("limit", &limit)];
    let asked = ask(&dashboard, &with_query("/debug/services", &given)).await?;
    answered(&asked)?;
    Ok(axum::Json(merge::services(asked)))
}

pub(super) async fn service(
    State(dashboard): State<Dashboard>,
    Path((namespace, name)): Path<(String, String)>,
    parameters: Parameters,
) -> Page {
    let path = format!("/debug/services/{}/{}", encoded(&namespace), encoded(&name));
    let given = [("from", get(&parameters, "from")), ("zone", get(&parameters, "zone"))];
    let asked = ask(&dashboard, &with_query(&path, &given)).await?;
    if asked.answers.is_empty() {
        return Err(Problem(StatusCode::NOT_FOUND, nobody(&asked.failures)));
    }
    Ok(axum::Json(merge::service(asked)))
}

pub(super) async fn changes(State(dashboard): State<Dashboard>, parameters: Parameters) -> Page {
    let replicas = replicas(&dashboard)?;
    let (offset, limit) = range(&parameters)?;
    // A log has a thousand at most, and where it begins differs between replicas.
    let most = MOST.to_string();
    let given = [("search", get(&parameters, "search")), ("limit", &most)];
    let path = with_query("/debug/changes", &given);
    let asked = ask_json::<ChangesPage>(&replicas, &path).await;
    answered(&asked)?;
    Ok(axum::Json(merge::changes(asked, offset, limit)))
}

pub(super) async fn sources(State(dashboard): State<Dashboard>) -> Page {
    let asked = ask(&dashboard, "/debug/sourcez").await?;
    answered(&asked)?;
    Ok(axum::Json(merge::sources(asked)))
}
