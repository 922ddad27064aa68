//! Opens connections.

use std::time::Duration;
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(5);

pub async fn dial(address: &str) -> Result<TcpStream, String> {
    let failed = |reason: String| format!("cannot connect to {address}: {reason}");
    let socket = tokio::time::timeout(TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| failed(format!("no answer within {} s", TIMEOUT.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    socket
        .set_nodelay(true)
        .map_err(|error| failed(error.to_string()))?;
    Ok(socket)
}
