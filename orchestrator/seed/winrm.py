"""The PowerShell that a Windows host runs at its first start, so that the controller can talk to it."""

from __future__ import annotations

from orchestrator.seed.values import Host

PLACED = r"C:\ProgramData\halligan\winrm.pfx"
"""Where an installer may leave the listener's certificate and key (PKCS 12, no password); taken in and removed."""

PORT = 5986

_SCRIPT = r"""#ps1_sysnative
# Halligan, install @GENERATION@: open WinRM over HTTPS for the controller, and close everything else that WinRM has.
# cloudbase-init runs this once per install and keeps what it prints in its log. There is no secret in it.
$ErrorActionPreference = 'Stop'
$name = @NAME@
$names = @SUBJECTS@
$placed = @PLACED@

# The certificate of the listener: the one that the installer placed, or one of this machine's own. In the second case
# the controller has nothing to check it by: compare the thumbprint below with what the controller shows, then pin it.
if (Test-Path -LiteralPath $placed) {
    $certificate = Import-PfxCertificate -FilePath $placed -CertStoreLocation 'Cert:\LocalMachine\My'
    Remove-Item -LiteralPath $placed -Force
    $origin = 'placed by the installer'
} else {
    $extensions = @("2.5.29.17={text}$names", '2.5.29.37={text}1.3.6.1.5.5.7.3.1')
    $end = (Get-Date).AddYears(10)
    $certificate = New-SelfSignedCertificate -Subject "CN=$name" -TextExtension $extensions -NotAfter $end `
        -KeyExportPolicy NonExportable -CertStoreLocation 'Cert:\LocalMachine\My'
    $origin = 'made by this machine'
}

# WinRM: HTTPS only; certificates and Negotiate log in, passwords in the clear do not.
Enable-PSRemoting -SkipNetworkProfileCheck -Force | Out-Null
Set-Service -Name 'WinRM' -StartupType Automatic
Get-ChildItem -Path 'WSMan:\localhost\Listener' | Remove-Item -Recurse -Force
$thumbprint = $certificate.Thumbprint
New-Item -Path 'WSMan:\localhost\Listener' -Transport HTTPS -Address '*' -CertificateThumbPrint $thumbprint -Force |
    Out-Null
Set-Item -Path 'WSMan:\localhost\Service\AllowUnencrypted' -Value $false
Set-Item -Path 'WSMan:\localhost\Service\Auth\Basic' -Value $false
Set-Item -Path 'WSMan:\localhost\Service\Auth\Certificate' -Value $true

# Without this a local administrator who comes over the network is none.
$policies = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Policies\System'
New-ItemProperty -Path $policies -Name 'LocalAccountTokenFilterPolicy' -PropertyType DWord -Value 1 -Force | Out-Null

# The firewall: our port in, the one for plain HTTP shut.
Get-NetFirewallRule -Name 'WINRM-HTTP-In-TCP*' -ErrorAction SilentlyContinue | Disable-NetFirewallRule
Remove-NetFirewallRule -Name 'halligan-winrm-https' -ErrorAction SilentlyContinue
New-NetFirewallRule -Name 'halligan-winrm-https' -DisplayName 'Halligan: WinRM over HTTPS' -Direction Inbound `
    -Protocol TCP -LocalPort @PORT@ -Action Allow -Profile Any | Out-Null

Write-Output "Halligan: WinRM listens on port @PORT@, certificate $thumbprint, $origin"
exit 0
"""


def script(host: Host) -> str:
    """Return the script: plain ASCII, lines end as Windows has them."""
    addresses = [f"ipaddress={nic.address}" for nic in host.networks if nic.address]
    values = {
        "@GENERATION@": str(host.generation),
        "@NAME@": _quoted(host.name),
        "@SUBJECTS@": _quoted("&".join([f"dns={host.name}", *addresses])),
        "@PLACED@": _quoted(PLACED),
        "@PORT@": str(PORT),
    }
    text = _SCRIPT
    for mark, value in values.items():
        text = text.replace(mark, value)
    return text.replace("\n", "\r\n")


def _quoted(text: str) -> str:
    """Return a literal: within single quotes PowerShell expands nothing."""
    return "'" + text.replace("'", "''") + "'"
